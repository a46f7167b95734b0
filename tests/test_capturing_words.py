"""What is said of a forward that no file can hold, and what is taken that torch.export alone would not."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Net(nn.Module):
    def __init__(self, rest: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(6, 6), rest

    def forward(self, x: Any, *others: Any) -> Any:
        return self.rest(self.layer, x, *others)


def asks(layer: nn.Module, x: Tensor) -> Any:
    if x.sum() > 0:
        return layer(x)
    return x


def counts(layer: nn.Module, x: Tensor, number: Tensor) -> Any:
    return layer(x)[: int(number)].sum() + torch.ones(int(number)).sum()


@pytest.mark.parametrize(
    ("rest", "inputs", "line"),
    [(asks, (torch.ones(2, 6),), "if x.sum() > 0:"), (counts, (torch.ones(2, 6), torch.tensor(1)), "int(number)")],
)
def test_a_way_by_values_is_refused_with_its_line(rest: Any, inputs: tuple[Tensor, ...], line: str) -> None:
    with pytest.raises(ConversionError, match=r"by the values of its input at test_capturing_words\.py:\d") as no:
        capture(CompressedModel(Net(rest).eval(), {}), inputs)
    assert line in no.value.message
    assert "torch.where" in str(no.value.way_out)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, *, ids: Tensor, scale: float = 1.0) -> Tensor:
        return self.layer(ids) * scale  # type: ignore[no-any-return]


def test_a_forward_that_takes_names_alone_is_told_to_be_wrapped() -> None:
    with pytest.raises(ConversionError, match="does not run on 2×6") as caught:
        capture(CompressedModel(Named().eval(), {}), (torch.ones(2, 6),))
    assert "takes ids by keyword alone" in str(caught.value.way_out)


@dataclass
class Batch:
    values: Tensor
    mask: Tensor | None = None


@pytest.mark.parametrize("format", HERE)
def test_inputs_come_in_a_dataclass(format: FormatName, tmp_path: Path) -> None:
    model = one_shot(Model(Net(lambda layer, batch: Batch(layer(batch.values) * batch.mask)).eval()), Recipe(0.5))
    inputs = (Batch(torch.randn(2, 6), torch.ones(2, 6)),)
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    assert verify(path, model, inputs).passed


def whole() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model.forward = lambda x: model[1](model[0](x))  # type: ignore[method-assign]
    return model


def part() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    first: Any = model[0]
    first.forward = lambda x: F.linear(x, first.weight, first.bias) * 2
    return model


@pytest.mark.parametrize("build", [whole, part])
@pytest.mark.parametrize("pruned", [True, False])
def test_a_forward_that_reads_the_weights_of_the_original_is_refused(
    build: Callable[[], nn.Module], pruned: bool
) -> None:
    model = one_shot(Model(build().eval()), Recipe(0.5)) if pruned else CompressedModel(build().eval(), {})
    with pytest.raises(ConversionError, match=r"reads '0\.weight' from another object") as caught:
        capture(model, (torch.randn(2, 6),))
    assert "types.MethodType" in str(caught.value.way_out)


def test_a_function_that_is_bound_is_a_forward() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model.forward = types.MethodType(lambda self, x: self[1](self[0](x)), model)  # type: ignore[method-assign]
    assert "0.weight" in capture(one_shot(Model(model.eval()), Recipe(0.5)), (torch.randn(2, 6),)).used


def written(layer: nn.Module, x: Tensor, cache: Tensor) -> Any:
    cache[1:2] = layer(x)
    return cache


@pytest.mark.parametrize("format", [format for format in HERE if format in ("coreml", "tflite")])
def test_an_input_that_is_written_to_and_returned_is_told_to_be_copied(format: FormatName, tmp_path: Path) -> None:
    inputs = (torch.randn(1, 6), torch.randn(4, 6))
    with pytest.raises(ConversionError, match="writes into its input") as caught:
        export(CompressedModel(Net(written).eval(), {}), format, inputs, tmp_path / f"m{FORMATS[format].suffix}")
    assert ".clone()" in str(caught.value.way_out)


@pytest.mark.parametrize("format", HERE)
def test_complex_outputs_are_refused_in_every_format(format: FormatName, tmp_path: Path) -> None:
    model = CompressedModel(Net(lambda layer, x: torch.fft.fft(layer(x))).eval(), {})
    with pytest.raises(ConversionError, match="returns complex numbers") as caught:
        export(model, format, (torch.randn(2, 6),), tmp_path / f"m{FORMATS[format].suffix}")
    assert "view_as_real" in str(caught.value.way_out)
