"""Matrices of no layer of PyTorch: pruned where the source multiplies by them or a rule says so, and proved."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy import Pruner
from idp_deploy.errors import UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.masks import prunable_weights
from idp_deploy.pruning import left_dense, one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify

RULES = {"steps.*": "unstructured"}
ALL = ["w", "turned", "head.weight", "steps.0", "steps.1"]


class Bare(nn.Module):
    """x @ w, F.linear, a list of matrices, and a table of positions that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(24, 40) / 5)
        self.turned = nn.Parameter(torch.randn(32, 40) / 5)
        self.steps = nn.ParameterList(nn.Parameter(torch.randn(32, 32) / 5) for _ in range(2))
        self.positions, self.scale = nn.Parameter(torch.randn(6, 32)), nn.Parameter(torch.ones(1, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(torch.relu(x @ self.w), self.turned) * self.scale + self.positions
        for step in self.steps:
            x = x + torch.relu(torch.matmul(x, step))
        return self.head(x)


EXAMPLE = (torch.randn(1, 6, 24),)


def net() -> Bare:
    torch.manual_seed(0)
    return Bare().eval()


def test_they_stay_dense_and_are_named_with_the_rule_that_prunes_them() -> None:
    left = left_dense(net(), Recipe(0.5))
    assert list(left) == ["positions", "steps.0", "steps.1"]
    assert left["positions"] == left["steps.0"]
    assert "--rule 'NAME=unstructured' prunes one, --rule 'matrix=unstructured' all of them" in left["steps.0"]
    assert list(one_shot(Model(net()), Recipe(0.5)).masks) == ["w", "turned", "head.weight"]


def test_complex_weights_stay_dense_and_a_rule_that_names_one_is_refused() -> None:
    model = net()
    model.modes = nn.Parameter(torch.randn(16, 5, dtype=torch.complex64))
    model.turn = nn.Linear(8, 8, dtype=torch.complex64)
    pruner = Pruner(model, sparsity=0.5, rules={"matrix": "unstructured"})
    assert pruner.left == dict.fromkeys(["modes", "turn.weight"], "complex64, and masks are for real floats")
    with pytest.raises(UsageError, match=r"'modes' is complex64, and masks are for real floats"):
        Pruner(model, sparsity=0.5, rules={"mod*": "unstructured"})


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["", "int8-weights"])
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_a_rule_prunes_them_and_every_format_proves_it(format: FormatName, scheme: str, tmp_path: Path) -> None:
    model = one_shot(Model(net()), Recipe(0.7, options={"rules": RULES}))
    assert list(model.masks) == ALL
    assert model.sparsity == pytest.approx(0.7, abs=0.01)
    model = quantize(model, scheme, example_inputs=EXAMPLE) if scheme else model
    path = export(model, format, EXAMPLE, tmp_path / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, EXAMPLE)
    assert parity.passed, parity.notes
    assert {proof.parameter for proof in parity.weights} == set(model.masks)


def test_training_masks_them_while_forward_reads_them() -> None:
    model = net().train()
    pruner = Pruner(model, sparsity=0.6, epochs=2, steps_per_epoch=8, rules=RULES)
    model = pruner.prepare()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(16):
        optimizer.zero_grad()
        model(torch.randn(4, 6, 24)).square().mean().backward()
        optimizer.step()
        pruner.step()
    sparse = pruner.finalize()
    zeros = {name: int((sparse.module.get_parameter(name) == 0).sum()) for name in sparse.masks}
    assert set(zeros) == set(ALL)
    assert sum(zeros.values()) == pytest.approx(0.6 * sparse.prunable, abs=len(zeros))


def test_a_kind_names_all_of_them_and_channels_cannot_be_removed() -> None:
    model = one_shot(Model(net()), Recipe(0.5, options={"rules": {"matrix": "unstructured"}}))
    assert {"w", "positions"} <= set(model.masks)
    left = left_dense(net(), Recipe(0.5, options={"rules": {"steps.0": "channel"}}))
    assert left["steps.0"] == "channels of matrices of no layer cannot be removed"
    with pytest.raises(UsageError, match="'wrong' matches no prunable weight"):
        left_dense(net(), Recipe(0.5, options={"rules": {"wrong": "2:4"}}))


class Scaled(nn.Module):
    """A linear layer of its own, whose weight is scaled as it is read."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        self.gain = 1 / inputs**0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias)


class Around(nn.Module):
    """A layer of graphs: every node's features by the weight, then the neighbours' sum, then a table that is added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.places = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(5, outputs))

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        return near @ torch.mm(x, self.weight) + self.places


class Branches(nn.Module):
    """A weight under one name on two branches, each time by another root of its inputs."""

    def __init__(self, inputs: int, outputs: int, act: bool) -> None:
        super().__init__()
        self.weight, self.inputs, self.act = nn.Parameter(torch.randn(inputs, outputs)), inputs, act

    def forward(self, x: Tensor) -> Tensor:
        if self.act:
            w = self.weight / (self.inputs * 2) ** 0.5
            return (x @ w).relu()
        w = self.weight * (1 / math.sqrt(self.inputs))
        return x @ w


class Windows(nn.Module):
    """A convolution of its own, and one that goes back, through a name and a method beside forward."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.there, self.back = (nn.Parameter(torch.randn(channels, 6, 3) / 4) for _ in range(2))

    def inner(self, x: Tensor) -> Tensor:
        kernel = self.there
        return F.conv1d(x, weight=kernel, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(self.inner(x).relu(), self.back, padding=1)


class Looked(nn.Module):
    """What only looks like weights: a table, a pair that makes one matrix, one standardized, one times an input."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.down, self.up, self.even, self.gate, self.one = (
            nn.Parameter(torch.randn(8, 8)) for _ in range(6)
        )

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        even, one = self.even - self.even.mean(), self.one
        if rows is None:
            one = x
        x = x @ (self.gate * x) @ one
        return F.linear(x + self.table[rows], self.up @ self.down) @ self.table.t() @ even


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scaled, self.around, self.windows = Scaled(12, 16), Around(16, 6), Windows(8)
        self.summed = nn.Parameter(torch.randn(5, 7))
        self.branches = nn.Sequential(Branches(7, 9, True), Branches(9, 4, False))

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        x = self.windows(self.around(self.scaled(x).relu(), near).T[None])
        return self.branches(torch.einsum("bct,to->bco", x, self.summed))


WAYS = {
    "summed": ("linear", 1),
    "scaled.weight": ("linear", 0),
    "around.weight": ("linear", 1),
    "windows.there": ("convolution", 0),
    "windows.back": ("convolution", 1),
    "branches.0.weight": ("linear", 1),
    "branches.1.weight": ("linear", 1),
}
GRAPH = (torch.randn(5, 12), torch.rand(5, 5))


def test_what_the_source_of_a_module_multiplies_by_is_a_weight_and_a_table_is_none() -> None:
    found = prunable_weights(Layers())
    assert {name: (one.kind, one.output_axis) for name, one in found.items()} == WAYS
    assert prunable_weights(Looked()) == {}


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["", "int8"])
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_layers_of_ones_own_are_pruned_and_proved_as_torchs_are(
    format: FormatName, scheme: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = one_shot(Model(Layers().eval()), Recipe(0.7))
    model = quantize(model, scheme, example_inputs=GRAPH) if scheme else model
    assert not (model.quantization and model.quantization.kept_float)
    path = export(model, format, GRAPH, tmp_path / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, GRAPH)
    assert parity.passed, parity.notes
    assert {proof.parameter for proof in parity.weights} == set(WAYS)
