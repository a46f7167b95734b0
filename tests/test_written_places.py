"""What a mask or a place says to overwrite, single images, shared heads, and what rounding tips: in every format."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.elementwise import copysign, signbit
from idp_deploy.rewriting.lines import quantile
from idp_deploy.rewriting.special import erfinv
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Rows(nn.Module):
    """A layer, and what is made of its rows."""

    def __init__(self, rest: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(6, 6), rest

    def forward(self, x: Tensor) -> Any:
        return self.rest(self.layer(x), x)


def number_by_mask(y: Tensor, x: Tensor) -> Tensor:
    y = y.clone()
    y[y < 0] = 0.25
    y[x[:, 0] > 0] = torch.arange(6.0)
    return y


def entries_by_mask(y: Tensor, x: Tensor) -> Tensor:
    y = y.clone()
    inside = y < 0
    y[inside] = x[inside]
    return y


def places_along(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    cache, places = torch.zeros(2, 4, 6), torch.tensor([3, -4])
    cache[:, places] = y[:2]
    return cache, y.index_fill(1, torch.tensor([0, -1]), 2), y.index_copy(0, torch.tensor([2, 0]), x[:2])


def spread(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return x.masked_scatter(x > 0, y), *torch.var_mean(y, 1), *torch.std_mean(x, 0), *torch.aminmax(y), y.argmin()


def bent(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return (
        torch.erfinv(y.tanh() * 0.9), torch.erfc(y), torch.exp2(y), torch.copysign(y, x), F.hardshrink(y),
        torch.nansum(y, 1), torch.dist(y, x), torch.diag_embed(y), torch.ldexp(y, torch.tensor(3)), F.mse_loss(y, x),
    )  # fmt: skip


def in_order(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return torch.quantile(y, 0.3, dim=1), torch.quantile(x, torch.tensor([0.1, 0.5]), dim=0, keepdim=True)


def shifted(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    whole = (x > 0).int() * torch.arange(6, dtype=torch.int32)
    return y, whole << 2, (whole - 3) >> 1


def nothing_to_see(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Attention whose mask, of every kind, hides all from some queries: torch gives these zeros."""
    query, key = y[None, None], x[None, None]
    shown = (x > 0) & (x[:, :1] > 0)
    far = torch.where(shown, x, -math.inf)
    constant = torch.ones(6, 6).tril(-1) > 0
    both = far + torch.where(constant, 0.0, -math.inf)
    return tuple(F.scaled_dot_product_attention(query, key, key, mask) for mask in (shown, far, constant, both))


def far_away(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Masks by numbers as far as can be."""
    hidden = (1 - (x > 0).float()) * torch.finfo(torch.float32).min
    lowest = torch.tensor(torch.finfo(torch.float32).min).detach()
    return ((y + hidden).softmax(-1), y.masked_fill(x < 9, -1e9).softmax(-1), torch.where(x > 0, y, lowest).softmax(-1))


def far_away_outputs(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The same as they are returned, beside scores that count: in float16 the largest there is."""
    return (
        *(y.masked_fill(x > 0, far) for far in (-1e9, -1e4, torch.finfo(torch.float32).min)),
        torch.nan_to_num(torch.where(x > 0, y, y / x.relu())),
        torch.nan_to_num(x.relu().log() + y, nan=0.5, neginf=-1e30),
    )


def infinite_constants(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The largest of what came to each place, and zero where nothing did, as graph networks have it."""
    places = (x[:, :1] > 0).long().expand(6, 6)
    most = torch.full((6, 6), -math.inf).scatter_reduce(0, places, y, "amax", include_self=False)
    least = torch.where(x > 0, y, torch.full((6, 6), math.inf))
    return tuple(torch.where(torch.isinf(value), 0.0, value) for value in (most, least))


def scattered(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """With and without what was there before, where nothing comes as well."""
    places = torch.tensor([0, 4, 4, 0, 1, 4])[:, None].expand(6, 6)
    how = [(kind, kept) for kind in ("sum", "mean", "prod", "amax", "amin") for kept in (True, False)]
    return tuple(x.scatter_reduce(0, places, y, kind, include_self=kept) for kind, kept in how)


def counted(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Integers and truth values put, compared and counted at places."""
    places, whole = torch.tensor([0, 4, 4, 0, 1, 4])[:, None].expand(6, 6), (y * 3).int()
    kinds = ("sum", "prod", "amax", "amin")
    reduced = (torch.ones_like(whole).scatter_reduce(0, places, whole, kind, include_self=False) for kind in kinds)
    shares = torch.zeros(6, 6, dtype=torch.long).scatter_reduce(0, places, whole.long(), "mean")
    best = y.argmax(1, keepdim=True)
    truths = torch.zeros(6, 6, dtype=torch.bool)
    hit, copied = truths.scatter(1, best, True), truths.index_copy(1, torch.tensor([1, 2]), x[:, :2] > 0)
    picked = truths.clone()
    picked[torch.arange(6), y.argmax(1)] = True
    return *reduced, shares, hit, truths.scatter(1, best, x[:, :1] > 0), copied, picked


def places_of_32_bits(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    rows, columns = (x[:, 0].abs() * 2).clamp(0, 5).int(), (x[0].abs() * 2).clamp(0, 5).int()
    total = torch.zeros(6, 6).index_put((rows,), y, accumulate=True)
    return total, torch.zeros(6, 6).index_add(0, rows, y), y[rows, columns], y[:, columns]


def equals_in_order(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    z = (x.sign() * 2).relu()
    return y, torch.sort(z, dim=-1, stable=True).indices, torch.argsort(z, dim=-1, descending=True, stable=True)


def added(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Slices added at places along any axis; numbers and integers at places."""
    places = torch.tensor([1, 4, 1, 0])
    columns = torch.ops.aten.index_put(torch.zeros(6, 6), [None, places - 2], y[:, :4], True)
    numbers = torch.zeros(6).index_add(0, places, y[0, :4])
    return columns, numbers, torch.zeros(6, dtype=torch.long).scatter_add(0, places, places * 2)


def taken_from_a_constant(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return torch.arange(6.0) - y, y * torch.hamming_window(6) + torch.blackman_window(6)


def kinds_of_numbers(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Integers and truth values beside numbers with a fraction."""
    whole, short, shown = (x * 3).long(), (x * 3).int(), x > 0
    mixed = (1.0 - whole, 1.5 - short, whole * 0.5, whole / 2, short - 0.25, whole + y, 2.0 - shown.long(), short / y)
    return *mixed, torch.where(shown, whole, 0.5), y * shown, shown * 2.5, whole - y, (1.0 - shown.long()) * -1e4 + y


def compared(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Integers beside numbers with a fraction, as masks of attention are asked whether they hide anything."""
    whole, short = (x * 3).long(), (x * 3).int()
    asked = (whole != 0.0, whole > 0.5, short <= -1.5, whole >= y, y < short, (x > 0) == 1.0)
    return tuple(y * each for each in asked)


def shared_heads(y: Tensor, x: Tensor) -> Tensor:
    key = x.reshape(1, 1, 2, 6).expand(1, 2, 2, 6)
    return F.scaled_dot_product_attention(y.reshape(1, 4, 1, 3).repeat(1, 1, 1, 2), key, key, enable_gqa=True)


def diagonals(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Entries and numbers put on them, of wide, tall and stacked matrices, of truth values too."""
    tall, stacked = torch.cat([x, y])[:, :3] * 1, y.reshape(2, 3, 6) * 1
    placed = torch.diagonal_scatter(stacked, x[:3, :1], 1, 2, 0), torch.diagonal_scatter(stacked, x[:2, :2], -1, 1, 2)
    alike = (x @ y.t()).fill_diagonal_(0.5), (x > 0).fill_diagonal_(True) * y, (y > 0).fill_diagonal_(False) * x
    return torch.diagonal_scatter(y, x[0, :4], -2), *placed, tall.fill_diagonal_(2.0, wrap=True), *alike


def repeated(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """As often as an input says, where it is said what that makes, and how often numbers occur."""
    often = torch.where(x[:, 0] > 0, 2, 1)
    counts = torch.bincount(y.argmax(1), minlength=6) + y, torch.bincount(x.argmax(1), x[:, 1], 6) * y
    padded = torch.cat([often, 12 - often.sum(0, keepdim=True)])
    spread = torch.cat([y, y[:1]]).repeat_interleave(padded, 0, output_size=12)
    return *counts, spread, torch.repeat_interleave(padded, output_size=12) * 1.5


def not_a_number(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The middle and the largest of what is one."""
    holes = torch.where(x > 0.5, torch.nan, y)
    middles = holes.nanmedian(1).values, holes.nanmedian(0, keepdim=True).values, y.nanmedian()
    return *middles, torch.fmax(holes, x), torch.fmin(holes, x), torch.vander(y[0], 4), torch.linalg.vander(y[1])


ROWS: dict[str, tuple[Callable[[Tensor, Tensor], Any], int]] = {
    "a number where a mask says": (number_by_mask, 3),
    "entries where a mask says": (entries_by_mask, 3),
    "places along an axis": (places_along, 4),
    "spread": (spread, 3),
    "bent": (bent, 3),
    "in order": (in_order, 5),
    "shifted": (shifted, 3),
    "nothing to see": (nothing_to_see, 6),
    "far away": (far_away, 6),
    "far away outputs": (far_away_outputs, 6),
    "infinite constants": (infinite_constants, 6),
    "scattered": (scattered, 6),
    "counted": (counted, 6),
    "places of 32 bits": (places_of_32_bits, 6),
    "equals in order": (equals_in_order, 6),
    "added": (added, 6),
    "taken from a constant": (taken_from_a_constant, 3),
    "kinds of numbers": (kinds_of_numbers, 3),
    "compared": (compared, 3),
    "shared heads": (shared_heads, 2),
    "diagonals": (diagonals, 6),
    "repeated": (repeated, 6),
    "not a number": (not_a_number, 6),
    "one part": (lambda y, x: (y.split(6, 1)[0] * 2, x.split([6], 1)[0] + y, *y.split(4, 1), y.chunk(1, 1)[0] * 3), 2),
}


def checked(module: nn.Module, format: FormatName, inputs: tuple[Tensor, ...], folder: Path) -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = one_shot(Model(module.eval()), Recipe(0.5))
    path = export(model, format, inputs, folder / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs)
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]
    assert parity.weights


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", ROWS)
def test_formats_hold_them(name: str, format: FormatName, tmp_path: Path) -> None:
    rest, rows = ROWS[name]
    torch.manual_seed(1)
    checked(Rows(rest), format, (torch.randn(rows, 6),), tmp_path)


class OneNumber(nn.Module):
    """A layer that gives one number a row, from which a number is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.out(self.layer(x))
        return F.softplus(y - 1), 2 - y


class Pools(nn.Module):
    """Pools with gaps, and pools that divide by another number than their windows have entries."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        gaps = F.max_pool2d(y, (3, 2), (2, 1), (1, 0), dilation=(1, 3), ceil_mode=True)
        return self.out(gaps), self.out(F.avg_pool2d(y, 2, divisor_override=3)), F.max_pool1d(y[0], 3, 1, 1, 2)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize(("build", "shape"), [(OneNumber, (3, 6)), (Pools, (1, 3, 10, 9))])
def test_what_converters_make_of_constants_beside_layers(
    build: Callable[[], nn.Module], shape: tuple[int, ...], format: FormatName, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    checked(build(), format, (torch.randn(shape),), tmp_path)


def in_place(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Of a sum each, which nobody else sees, but for the last."""
    bends = (F.hardtanh_, F.elu_, torch.selu_, F.celu_, F.hardtanh, F.elu, lambda t: F.relu6(t, inplace=True))
    last = y + x
    row = last.view(-1)
    last.relu_()
    return *(bend((y + x) * 3) for bend in bends), row


def parts_in_place(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """What is written into one part of a whole is seen in the whole."""
    z = y + x
    for first, second in (y.chunk(2, 1), z.split([1, 5], 1)):
        first.sigmoid_()
        second.mul_(2)
    third = (y * x).unbind(1)
    third[0].relu_()
    empty = torch.zeros(3, 6)
    empty[:, 1:3] = y[:, 2:4]
    return y + 0, z + 0, empty * 2, torch.stack(third)


def powers_in_place(y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """A tensor raised to a number, as graph networks norm by degrees, and the root of a square, which has no sign."""
    return (y.abs() + 1).pow_(-0.5), (x * y).pow_(2).sqrt_() + 1, (y.abs() + 1).pow_(x)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("rest", [in_place, parts_in_place, powers_in_place])
def test_activations_in_place_and_by_their_usual_numbers(
    rest: Callable[[Tensor, Tensor], Any], format: FormatName, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    checked(Rows(rest), format, (torch.randn(3, 6),), tmp_path)


SINGLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "line": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2), nn.AvgPool1d(2)), (3, 16)),
    "image": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)), (3, 9, 9)),
    "image upwards": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2), nn.AvgPool2d(2)), (3, 5, 5)),
    "volume": (lambda: nn.Conv3d(2, 4, 3), (2, 4, 5, 6)),
}


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", SINGLE)
def test_one_image_by_itself_is_a_batch_of_one(name: str, format: FormatName, tmp_path: Path) -> None:
    build, shape = SINGLE[name]
    checked(build(), format, (torch.randn(shape),), tmp_path)


def ordered(y: Tensor, x: Tensor) -> Tensor:
    return torch.argsort(y, dim=1)


def rounded(y: Tensor, x: Tensor) -> Tensor:
    return torch.round(y, decimals=1)


@pytest.mark.wide
@pytest.mark.parametrize("format", [format for format in HERE if format in ("onnx", "tflite")])
@pytest.mark.parametrize("rest", [ordered, rounded, lambda y, x: torch.deg2rad(y), lambda y, x: torch.special.ndtr(y)])
def test_a_factor_that_an_operator_begins_with_is_known(
    rest: Callable[[Tensor, Tensor], Any], format: FormatName, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    checked(Rows(rest), format, (torch.randn(3, 6),), tmp_path)


@pytest.mark.parametrize("format", [format for format in HERE if format == "coreml"])
def test_whole_numbers_that_float16_tips_name_float32(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CompressedModel(Rows(lambda y, x: (y * 5000).int()).eval(), {})
    inputs = (torch.randn(3, 6),)
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs, seeds=1)
    assert parity.passed or any("--precision float32" in note for note in parity.notes)


def test_the_numbers_are_torchs() -> None:
    x = torch.linspace(-0.99999, 0.99999, 2001)
    torch.testing.assert_close(erfinv(x), torch.erfinv(x), rtol=1e-5, atol=1e-6)
    signed = torch.tensor([-0.0, 0.0, -1.0, 2.0])
    assert torch.equal(signbit(signed), torch.signbit(signed))
    assert torch.equal(copysign(signed, signed.flip(0)), torch.copysign(signed, signed.flip(0)))
    y = torch.randn(3, 6)
    for where in ({}, {"dim": 1}, {"dim": 0, "keepdim": True}, {"keepdim": True}):
        for share in (0.3, torch.tensor(0.7), torch.tensor([0.1, 0.5, 1.0])):
            torch.testing.assert_close(quantile(y, share, **where), torch.quantile(y, share, **where))
