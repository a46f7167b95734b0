"""LSTMs with projected states, step by step: torch's numbers, and the same zeros in the formats that lack them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.projected import by_steps
from idp_deploy.verification import verify
from tests.formats_here import HERE

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
LAYERS = {
    "plain": nn.LSTM(6, 8, proj_size=4),
    "two ways, two levels": nn.LSTM(6, 8, 2, proj_size=4, bidirectional=True, batch_first=True),
    "without biases": nn.LSTM(6, 8, 2, proj_size=4, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_steps_are_torchs(name: str) -> None:
    layer = LAYERS[name]
    x, directions = torch.randn(3, 5, 6), 2 if layer.bidirectional else 1
    batch = 3 if layer.batch_first else 5
    h, c = (torch.randn(layer.num_layers * directions, batch, width) for width in (4, 8))
    outputs, (last, cells) = layer(x, (h, c))
    how = (layer.bias, layer.num_layers, 0.0, False, layer.bidirectional, layer.batch_first)
    found = by_steps(x, (h, c), layer._flat_weights, *how)
    assert found is not None
    for ours, torchs in zip(found, (outputs, last, cells), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-6)


def test_many_steps_and_plain_lstms_are_left() -> None:
    plain, projected = nn.LSTM(6, 8), nn.LSTM(6, 8, proj_size=4)
    zeros = torch.zeros(1, 2, 8)
    how = (True, 1, 0.0, False, False, False)
    assert by_steps(torch.randn(3, 2, 6), (zeros, zeros), plain._flat_weights, *how) is None
    assert by_steps(torch.randn(300, 2, 6), (zeros[..., :4], zeros), projected._flat_weights, *how) is None


@pytest.mark.wide
@pytest.mark.parametrize("format", [format for format in HERE if format in ("onnx", "coreml")])
def test_formats_hold_them(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = one_shot(Model(nn.LSTM(6, 8, proj_size=4).eval()), Recipe(0.5))
    inputs = (torch.randn(3, 2, 6),)
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs)
    assert parity.passed
    assert sum(proof.zeros for proof in parity.weights) == model.zeros
