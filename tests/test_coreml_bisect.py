"""Blaming the operator that went wrong, in a package of known content and one broken weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.coreml.bisect import first_divergence
from idp_deploy.reading import read
from idp_deploy.verification import verify
from tests import coreml_files as by_hand
from tests.test_counts import counter

W1 = np.arange(12, dtype=np.float32).reshape(3, 4) / 10 - 0.5
W2 = np.arange(6, dtype=np.float32).reshape(2, 3) / 5 - 0.4


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.one.weight.data, self.two.weight.data = torch.from_numpy(W1.copy()), torch.from_numpy(W2.copy())

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


def two_layers(path: Path, w1: np.ndarray, w2: np.ndarray) -> Path:
    """The model, computed with a detour that it has no counterpart of: x · 2 · ½."""
    scalars = [by_hand.const(n, by_hand.number(np.float32(v)), "float32", ()) for n, v in (("k2", 2.0), ("k05", 0.5))]
    return by_hand.package(
        path,
        [
            *scalars,
            by_hand.const("w1", by_hand.number(w1), "float32", w1.shape),
            by_hand.const("w2", by_hand.number(w2), "float32", w2.shape),
            by_hand.operation("linear", "first", {"x": "x", "weight": "w1"}, outputs=[("a", "float32", (1, 3))]),
            by_hand.operation("mul", "twice", {"x": "a", "y": "k2"}, outputs=[("b", "float32", (1, 3))]),
            by_hand.operation("mul", "half", {"x": "b", "y": "k05"}, outputs=[("c", "float32", (1, 3))]),
            by_hand.operation("relu", "act", {"x": "c"}, outputs=[("d", "float32", (1, 3))]),
            by_hand.operation("linear", "second", {"x": "d", "weight": "w2"}, outputs=[("y", "float32", (1, 2))]),
        ],
    )


X = torch.tensor([[1.0, -2.0, 3.0, 0.5]])


def test_a_right_file_has_no_divergence(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "m.mlpackage", W1, W2)
    assert first_divergence(read(path), CompressedModel(Two(), {}), (X,), tolerance=1e-5) is None


def test_the_operator_with_the_broken_weight_is_named(tmp_path: Path) -> None:
    broken = W2.copy()
    broken[1, 2] += 0.5
    path = two_layers(tmp_path / "second.mlpackage", W1, broken)
    found = first_divergence(read(path), CompressedModel(Two(), {}), (X,), tolerance=1e-5)
    assert found is not None
    assert (found.operation, found.kind) == ("second", "linear")
    assert found.relative_error > 0.1

    broken = W1.copy()
    broken[2, 0] -= 1.0
    path = two_layers(tmp_path / "first.mlpackage", broken, W2)
    found = first_divergence(read(path), CompressedModel(Two(), {}), (X,), tolerance=1e-5)
    assert found is not None
    assert found.operation == "first"


def test_verify_names_the_operator_in_a_note(tmp_path: Path) -> None:
    broken = W2.copy()
    broken[1, 2] += 0.5
    path = two_layers(tmp_path / "second.mlpackage", W1, broken)
    parity = verify(path, CompressedModel(Two(), {}), (X,))
    assert not parity.passed
    assert any("linear 'second'" in note for note in parity.notes)


class Fast(nn.Module):
    """A wave of hundreds of periods: float16 does not tell where in one of them it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.layer(x) * 4000)


def test_it_is_said_where_float16_is_the_reason_and_float32_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = Fast()
    module.layer.weight.data.mul_(64).round_().div_(64)  # exact in float16, as the bias
    module.layer.bias.data.zero_()
    model, inputs = CompressedModel(module, {}), (torch.tensor([[0.5, -0.25, 0.125, 0.625]]),)
    seen, count = counter(monkeypatch)
    count("idp_deploy.formats.coreml.bisect.capture", "traces")
    parity = verify(export(model, "coreml", inputs, tmp_path / "m.mlpackage").path, model, inputs)
    assert not parity.passed
    assert seen["traces"] == 1
    assert "computed in float32 the file agrees: export it with --precision float32" in parity.notes
    exact = export(model, "coreml", inputs, tmp_path / "m.mlpackage", precision="float32").path
    assert verify(exact, model, inputs).passed


def test_the_model_is_left_alone(tmp_path: Path) -> None:
    model = Two()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first_divergence(read(two_layers(tmp_path / "m.mlpackage", W1, W2)), CompressedModel(model, {}), (X,))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
