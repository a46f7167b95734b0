"""Arithmetic of whole numbers, as networks do it with ids, places and lengths: exact in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.verification import run_file
from tests.formats_here import HERE

ARITHMETIC: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, ...]]] = {
    "sizes and signs": lambda k, n: (k.abs(), k.sign(), k.relu(), (k - n).abs()),
    "quotients": lambda k, n: (k // n, k // 3, -7 // n, 7 % n, k % n),
    "cut": lambda k, n: (torch.div(k, n, rounding_mode="trunc"), torch.div(k, -3, rounding_mode="trunc"), k.fmod(n)),
    "products": lambda k, n: (k**2, k**3, k.square(), n.prod(1), k.cumprod(1), k.prod(-1, keepdim=True)),
    "the first of the largest": lambda k, n: (k.argmax(1), k.argmin(-1, keepdim=True), n.argmax()),
    "beside floats": lambda k, n: (torch.cat([k, n / 2], 1), torch.cat([k.int(), n, k > 0], 1)),
    "in one list with floats": lambda k, n: (torch.einsum("ij,ij->ji", k, n / 2), torch.stack([k, n / 2, n], 1)),
}


class Whole(nn.Module):
    """A layer beside whole numbers."""

    def __init__(self, arithmetic: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.layer, self.arithmetic = nn.Linear(4, 4), arithmetic

    def forward(self, k: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return self.layer(k.float()), *self.arithmetic(k, n)


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_whole_numbers_are_exact(name: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = CompressedModel(Whole(ARITHMETIC[name]).eval(), {})
    draw: Callable[[], tuple[Any, ...]] = lambda: (torch.randint(-9, 9, (2, 4)), torch.randint(1, 6, (2, 4)))  # noqa: E731
    path = export(model, format, draw(), tmp_path / f"m{FORMATS[format].suffix}").path
    inputs = draw()
    wanted = [y.detach().numpy() for y in model.module(*inputs)]
    for outputs in run_file(path, [tuple(x.numpy() for x in inputs)]).values():
        for found, value in zip(outputs[0][1:], wanted[1:], strict=True):
            assert found.shape == value.shape
            assert np.array_equal(found, value)


NARROW: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, ...]]] = {
    "chosen": lambda k, n: (k.amax(1), k.min(), *k.max(1), *torch.aminmax(k, dim=1), k.argmax(1), torch.maximum(k, n)),
    "bounded": lambda k, n: (k.clamp(1, 4), k.relu(), torch.where(k > n, k, n), nn.functional.pad(k, (1, 1))),
    "ordered": lambda k, n: (k.median(1).values, k.sort(1).values, k.topk(2, 1).values, k.cummax(1).values),
    "wrapped around": lambda k, n: (-k, k - n, k * n, k + 100, n - 2 * k, k.square()),
    "summed": lambda k, n: (k.sum(1), k.cumsum(1), k.float().mean(1), k.prod(1)),
    "divided": lambda k, n: (k // n, k % n, k / n, k.div(n, rounding_mode="trunc")),
    "beside others": lambda k, n: (k * 0.5, k + n.long(), k.masked_fill(k > n, 3), k == n, k.abs() < 4),
}


@pytest.mark.parametrize("format", [format for format in HERE if format in ("onnx", "tflite")])
@pytest.mark.parametrize("name", NARROW)
def test_narrow_integers_are_computed_with(name: str, format: FormatName, tmp_path: Path) -> None:
    kinds = (torch.int8, torch.uint8, torch.int16)

    def computed(k: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return tuple(y for kind in kinds for y in NARROW[name](k.to(kind), n.to(kind)))

    torch.manual_seed(3)
    model = CompressedModel(Whole(computed).eval(), {})
    inputs = (torch.stack([torch.randperm(9)[:4] for _ in range(2)]), torch.randint(1, 6, (2, 4)))
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    for (outputs,) in run_file(path, [tuple(x.numpy() for x in inputs)]).values():
        for found, value in zip(outputs[1:], computed(*inputs), strict=True):
            assert np.allclose(found, value.numpy(), rtol=1e-6, atol=0)


class Scaled(nn.Module):
    """A number as an input, whose results are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x) * t, t.float().exp()


@pytest.mark.parametrize("format", HERE)
def test_a_number_as_input_stays_one(format: FormatName, tmp_path: Path) -> None:
    model, inputs = CompressedModel(Scaled().eval(), {}), (torch.randn(2, 4), torch.tensor(3))
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    for outputs in run_file(path, [tuple(x.numpy() for x in inputs)]).values():
        assert outputs[0][1].shape == ()


class Counting(nn.Module):
    """Counts of what an input names, of as many as are taken; distances of all pairs; parts of a range."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        x = self.layer(x)
        counted, parts = torch.bincount(k.flatten(), minlength=10), torch.histogram(x, 4, range=(-1.0, 1.0))
        return nn.functional.pdist(x), nn.functional.pdist(x, p=1), parts.hist, parts.bin_edges, counted[:9] * 2


@pytest.mark.parametrize("format", HERE)
def test_counts_and_pairs_are_torchs(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model, inputs = CompressedModel(Counting().eval(), {}), (torch.randn(5, 4), torch.randint(0, 9, (3, 4)))
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    wanted = [y.detach().numpy() for y in model.module(*inputs)]
    for outputs in run_file(path, [tuple(x.numpy() for x in inputs)]).values():
        for found, value in zip(outputs[0], wanted, strict=True):
            assert np.allclose(found, value, atol=1e-2)


class Clamped(nn.Module):
    """One tensor between whole numbers in several places, as partial convolutions keep their mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.layer(x)
        return x.clamp(0, 1) * x.sum(), (2 * x).relu() * x.clamp(0, 1), x.clamp(-1, 2) + x.clamp(min=0), x.clamp(0, 0.5)


@pytest.mark.parametrize("format", HERE)
def test_one_tensor_is_clamped_between_whole_numbers_in_several_places(format: FormatName, tmp_path: Path) -> None:
    model, x = CompressedModel(Clamped().eval(), {}), torch.randn(3, 4)
    path = export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path
    wanted = [y.detach().numpy() for y in model.module(x)]
    for outputs in run_file(path, [(x.numpy(),)]).values():
        for found, value in zip(outputs[0], wanted, strict=True):
            assert np.allclose(found, value, atol=2e-2)
