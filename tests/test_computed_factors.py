"""Kernels, biases and factors that forward computes: in every format, and where a norm goes into a computed weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Conditioned(nn.Module):
    """A row that tells factors, and an image that they are for."""

    def __init__(self, rest: Callable[[Conditioned, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.factors, self.shifts, self.pixels = nn.Linear(8, 6), nn.Linear(8, 6), nn.Conv2d(6, 6, 3, padding=1)
        self.rest = rest

    def forward(self, row: Tensor, image: Tensor) -> Tensor:
        return self.rest(self, self.pixels(image), self.factors(row)[0].tanh() + 1.5, self.shifts(row)[0])


Way = Callable[[Conditioned, Tensor, Tensor, Tensor], Tensor]
WAYS: dict[str, Way] = {
    "biases": lambda net, x, a, b: F.conv2d(F.conv2d(x, net.pixels.weight, a), net.pixels.weight, b, padding="same"),
    "upwards": lambda net, x, a, b: F.conv_transpose2d(x, net.pixels.weight * a.reshape(-1, 1, 1, 1), b, 2, 1, 1),
    "upwards in groups": lambda net, x, a, b: F.conv_transpose2d(
        x, net.pixels.weight[:, :2] * a.reshape(-1, 1, 1, 1), b[:4], 2, groups=2
    ),
    "a layer norm": lambda net, x, a, b: F.layer_norm(x.movedim(1, -1), (6,), a, b),
    "a norm of an image": lambda net, x, a, b: F.instance_norm(x, weight=a, bias=b),
    "a norm of before": lambda net, x, a, b: F.batch_norm(x, b, a, a, b),
    "statistics alone": lambda net, x, a, b: F.batch_norm(x, b, a),
    "slopes": lambda net, x, a, b: F.prelu(x, a) + F.prelu(x, b[:1]),
    "one entry of many": lambda net, x, a, b: x.flatten()[7] * a[0],
}  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_computes_them_too(way: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = (
        one_shot(Model(Conditioned(WAYS[way]).eval()), Recipe(0.5)),
        (torch.randn(1, 8), torch.randn(1, 6, 7, 7)),
    )
    parity = verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed, (parity.outputs, parity.weights)


class Signs(nn.Module):
    """Weights of −1, 0 and 1 times one size a channel, made of others at each call, and a norm behind the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.norm.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        return self.norm(F.conv2d(x, weight.sign() * weight.abs().mean((1, 2, 3), keepdim=True))).relu()


@pytest.mark.parametrize("format", HERE)
def test_a_norm_behind_a_computed_weight_is_no_fault_of_the_file(format: FormatName, tmp_path: Path) -> None:
    """torch.onnx multiplies it into the weight."""
    torch.manual_seed(0)
    model, inputs = one_shot(Model(Signs().eval()), Recipe(0.6)), (torch.randn(1, 6, 7, 7),)
    parity = verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed, parity.weights
    assert parity.weights[0].zeros == parity.weights[0].expected_zeros > 0
