"""Context managers inside forward: their operators and weights are the file's like all others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.masks import prunable_weights
from idp_deploy.verification import verify
from tests.formats_here import HERE

FRAMES = (torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)),)


class LinearAttention(nn.Module):
    """Attention whose sums are kept out of half precision, with a layer, a norm and a constant inside the region."""

    def __init__(self, enabled: bool = False) -> None:
        super().__init__()
        self.enabled = enabled
        self.before, self.inside, self.after = nn.Linear(8, 12), nn.Conv1d(6, 6, 1, bias=False), nn.Linear(13, 3)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("shift", torch.linspace(-1, 1, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        with torch.autocast(device_type=x.device.type, enabled=self.enabled):
            x = self.norm(self.inside(F.relu(x.float()) + self.shift * torch.tensor(2.0)))
            with torch.enable_grad():
                x = F.pad(x, (0, 1), value=1.0) * 2
            total = x.abs().sum(-1, keepdim=True)
        return self.after(x / (total + 1e-3))


def model(module: nn.Module) -> CompressedModel:
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name in prunable_weights(module):
        weight = module.get_parameter(name)
        masks[name] = torch.rand(weight.shape, generator=generator) > 0.5
        weight.data = torch.randn(weight.shape, generator=generator) * masks[name]
    return CompressedModel(module.eval(), masks)


def test_what_a_region_holds_is_in_the_graph_and_folded() -> None:
    module = LinearAttention()
    captured = capture(model(module), FRAMES)
    operators = {str(node.target) for node in captured.module.graph.nodes if node.op == "call_function"}
    assert not any("wrap_with" in name or "batch_norm" in name for name in operators)
    assert captured.folded == (("inside.weight", "norm.weight"),)
    with torch.no_grad():
        torch.testing.assert_close(captured.module(*FRAMES), module(*FRAMES))


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_autocast_switched_off_changes_no_file(format: FormatName, tmp_path: Path) -> None:
    attention = model(LinearAttention())
    path = export(attention, format, FRAMES, tmp_path / f"net{FORMATS[format].suffix}").path
    parity = verify(path, attention, FRAMES)
    assert parity.passed
    assert {proof.parameter for proof in parity.weights} == {"before.weight", "inside.weight", "after.weight"}


@pytest.mark.parametrize("format", HERE)
def test_autocast_switched_on_is_refused_by_name(format: FormatName, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"forward switches autocast on \(torch\.autocast\('cpu'"):
        export(model(LinearAttention(enabled=True)), format, FRAMES, tmp_path / f"net{FORMATS[format].suffix}")
    assert not list(tmp_path.iterdir())
