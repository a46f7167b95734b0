"""Weights that a factor of zero keeps from the outputs: converters leave them out, and the file is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify


class Residual(nn.Module):
    """A branch whose last norm begins as zeros, as residual nets are drawn."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1, bias=False)
        self.norm: nn.Module = {
            "batch": nn.BatchNorm2d(16),
            "group": nn.GroupNorm(4, 16),
            "layer": nn.LayerNorm(16),
            "scale": nn.Identity(),
        }[norm]
        self.scale = nn.Parameter(torch.zeros(16, 1, 1)) if norm == "scale" else None
        if self.scale is None:
            nn.init.zeros_(self.norm.weight)  # type: ignore[arg-type]
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.branch(x)
        shaped = y
        y = (
            self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            if isinstance(self.norm, nn.LayerNorm)
            else self.norm(y)
        )
        y = y if self.scale is None else (y * self.scale).flatten(2).reshape_as(shaped)
        return self.head((x + y).mean((2, 3)))


@pytest.mark.wide
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "scale"])
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_a_silent_branch_may_be_missing_and_the_rest_is_proved(norm: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = one_shot(Model(Residual(norm).eval()), Recipe(0.8)), (torch.randn(1, 3, 8, 8),)
    path = export(model, format, example, tmp_path / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, example)
    assert parity.passed, parity.notes
    proved = {proof.parameter for proof in parity.weights}
    assert proved >= {"stem.weight", "head.weight"}
    missing = {note for note in parity.notes if "before a factor of zero" in note}
    assert bool(missing) == ("branch.weight" not in proved)
    if format == "tflite" and norm != "batch":
        assert missing == {
            "weight 'branch.weight' stands before a factor of zero: the file may leave it out; not looked for"
        }


def test_a_weight_that_is_heard_must_be_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = one_shot(Model(Residual("layer").eval()), Recipe(0.8)), (torch.randn(1, 3, 8, 8),)
    path = export(model, "tflite", example, tmp_path / "m.tflite").path
    with torch.no_grad():
        model.module.get_parameter("norm.weight").fill_(1e-9)
    parity = verify(path, model, example)
    assert not parity.passed
    assert any("'branch.weight'" in note and "not found" in note for note in parity.notes)
