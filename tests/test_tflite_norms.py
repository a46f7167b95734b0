"""Batch norms that no layer takes in are one product and one sum in a TFLite file, and compute what they did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.formats.tflite.write.graph import kind
from idp_deploy.formats.tflite.write.serializing import parse
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Shared(nn.Module):
    """One layer on two inputs with a norm of its own for each, one norm in front of it, and one without factors."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4) if axes == 0 else LAYERS[axes](4, 4, 3, bias=False)
        norm = NORMS[max(1, axes)]
        self.before, self.plain = norm(4), norm(4, affine=False)
        self.own = nn.ModuleList(norm(4, eps=0.1) for _ in range(2))
        for module in (self.before, self.plain, *self.own):
            for key, held in module.state_dict().items():
                if held.is_floating_point():
                    held.uniform_(0.3, 1.7) if key == "running_var" else held.normal_(0.4, 0.4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        one, other = (norm(self.layer(each)).relu() for norm, each in zip(self.own, (self.before(x), y), strict=True))
        return self.plain(one + other)


@pytest.mark.wide
@pytest.mark.parametrize(("axes", "scheme"), [(0, "int8"), (1, "int8-weights"), (2, ""), (2, "int8"), (3, "")])
def test_a_norm_that_stays_is_a_product_and_a_sum(axes: int, scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = tuple(torch.randn(2, 4, *[6] * axes) for _ in range(2))
    model = one_shot(Model(Shared(axes).eval()), Recipe(0.5))
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    path = export(model, "tflite", inputs, tmp_path / "m.tflite").path
    parity = verify(path, model, inputs)
    assert parity.passed, (parity.outputs, parity.weights)
    tflite = parse(path.read_bytes())
    kinds = Counter(kind(tflite, op) for op in tflite.subgraphs[0].operators)
    assert not kinds["SUB"]
    assert kinds["MUL"] == 4
