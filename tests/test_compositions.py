"""What Core ML's converter reads as it is: no pass of PyTorch's takes such a graph apart, and it says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.verification import verify
from tests.zoo import ZOO, pruned

pytest.importorskip("coremltools")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """The programs that were taken apart."""
    real, seen = ExportedProgram.run_decompositions, []

    def noted(program: ExportedProgram, *given: Any, **named: Any) -> ExportedProgram:
        seen.append(program)
        return real(program, *given, **named)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", noted)
    return seen


class Then(nn.Module):
    """A layer, then what is tried."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.what = nn.Conv2d(3, 8, 3, padding=1), what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.layer(x))


@pytest.mark.parametrize(
    "what",
    [
        lambda x: x.flatten(),
        lambda x: x.flatten(1),
        lambda x: x.flatten(-3, -2),
        lambda x: x.transpose(1, 3).flatten(2),
        lambda x: x.sum().flatten(),
        lambda x: x.unflatten(1, (2, 4)),
        lambda x: x.mean((0, 1)).unflatten(-1, (-1, 3)),
        lambda x: torch.ones_like(x).to(torch.int32) + x,
        lambda x: (x > -9).to(torch.float32) * x,
        lambda x: x + x.to(x.dtype),
        lambda x: 1 - x,
        lambda x: torch.rsub(x, x.mean(), alpha=2),
        lambda x: x.permute(0, 2, 3, 1).contiguous().reshape(1, -1, 8),
    ],
)
def test_compositions_of_one_operator_are_not_taken_apart(
    what: Callable[[Tensor], Any], passes: list[ExportedProgram], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = CompressedModel(Then(what).eval(), {}), (torch.randn(1, 3, 6, 9),)
    verification = verify(export(model, "coreml", inputs, tmp_path / "m.mlpackage"), model, inputs)
    assert verification.passed, verification
    assert not passes


@pytest.mark.parametrize(
    "what",
    [
        lambda x: torch.chunk(x, 2, 1)[1],  # of no name in the converter
        lambda x: x + x[:, :4].mul_(2).sum(),  # what it is a view of changes too
        lambda x: nn.functional.batch_norm(x, torch.zeros(8), torch.ones(8)),
    ],
)
def test_what_pytorch_would_take_apart_goes_through_it(
    what: Callable[[Tensor], Any], passes: list[ExportedProgram], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = CompressedModel(Then(what).eval(), {}), (torch.randn(1, 3, 6, 9),)
    assert verify(export(model, "coreml", inputs, tmp_path / "m.mlpackage"), model, inputs).passed
    assert passes


@pytest.mark.parametrize("name", ["mobilenet_v2", "bert", "torch_attention"])
def test_networks_of_plain_operators_are_not_taken_apart(
    name: str, passes: list[ExportedProgram], tmp_path: Path
) -> None:
    export(pruned(ZOO[name]), "coreml", ZOO[name].example_inputs(), tmp_path / "m.mlpackage")
    assert not passes
