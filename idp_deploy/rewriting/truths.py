"""truths: truth values as results, which are chosen, moved and put where converters expect numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def choice(hit: Tensor, yes: Tensor, no: Tensor) -> Tensor | None:
    """One of two truths without an operator that chooses, which onnxruntime has for numbers alone."""
    if yes.dtype != torch.bool or no.dtype != torch.bool:
        return None
    return torch.logical_or(torch.logical_and(hit, yes), torch.logical_and(torch.logical_not(hit), no))


def _filled(x: Tensor, hit: Tensor, value: Any) -> Tensor | None:
    if x.dtype != torch.bool or isinstance(value, Tensor):
        return None
    return torch.logical_or(x, hit) if value else torch.logical_and(x, torch.logical_not(hit))


def _as_numbers(operator: Callable[..., Tensor]) -> Row:
    """The same of 0 and 1; NotImplemented, which leaves a call as it is, for what is a number already."""

    def row(x: Tensor, *arguments: Any, **how: Any) -> Any:
        if x.dtype != torch.bool:
            return NotImplemented
        whole = [a.to(torch.int32) if isinstance(a, Tensor) and a.dtype == torch.bool else a for a in arguments]
        return operator(x.to(torch.int32), *whole, **how) > 0

    return row


def _or_none(row: Row) -> Row:
    def spelled(*arguments: Any, **how: Any) -> Any:
        found = row(*arguments, **how)
        return None if found is NotImplemented else found

    return spelled


def counted(x: Tensor, dtype: torch.dtype, *_: Any, **how: Any) -> Tensor | None:
    """Truths as whole numbers by a choice: litert-torch 0.10.0 fails at places that come from a cast."""
    if x.dtype != torch.bool or dtype not in (torch.int32, torch.int64):
        return None
    return torch.where(x, torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))


def _most(x: Tensor) -> float:
    return torch.finfo(x.dtype if x.is_floating_point() else torch.float32).max


def _endless(x: Tensor, y: float) -> Tensor:
    """`x == inf`; LiteRT's plain kernels give the largest number there is for 1 / 0."""
    return x >= _most(x) if y > 0 else x <= -_most(x)


def _compared(operator: Callable[..., Tensor]) -> Row:
    """A whole number beside one with a fraction, both in its type: litert-torch compares them in float64."""

    def row(x: Tensor, y: Any) -> Tensor | None:
        kind = torch.result_type(x, y)
        if isinstance(y, float) and math.isinf(y) and operator in (aten.eq.Tensor, aten.ne.Tensor):
            return _endless(x, y) if operator is aten.eq.Tensor else torch.logical_not(_endless(x, y))
        if not kind.is_floating_point or (x.dtype == kind and (not isinstance(y, Tensor) or y.dtype == kind)):
            return None
        other = y.to(kind) if isinstance(y, Tensor) else torch.full((), y, dtype=kind)
        return operator(x.to(kind), other)

    return row


_COMPARISONS = (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)
COMPARED: dict[Any, Row] = {
    getattr(packet, form): _compared(packet.Tensor) for packet in _COMPARISONS for form in ("Scalar", "Tensor")
}
ENDLESS: dict[Any, Row] = {
    aten.isinf.default: lambda x: _endless(torch.abs(x), torch.inf),
    aten.isfinite.default: lambda x: torch.abs(x) < _most(x),
    aten.isposinf.default: lambda x: _endless(x, torch.inf),
    aten.isneginf.default: lambda x: _endless(x, -torch.inf),
}
_MOVES = (
    aten.gather.default, aten.index.Tensor, aten.index_select.default, aten.roll.default, aten.select_scatter.default,
    aten.slice_scatter.default,
)  # fmt: skip
MOVED_AS_NUMBERS: dict[Any, Row] = {move: _as_numbers(move) for move in _MOVES}
MOVED: dict[Any, Row] = {move: _or_none(row) for move, row in MOVED_AS_NUMBERS.items()}
CHOSEN: dict[Any, Row] = {
    aten.where.self: choice,
    aten.where.ScalarSelf: lambda hit, value, x: _filled(x, hit, value) if isinstance(value, bool) else None,
    aten.where.ScalarOther: lambda hit, x, value: (
        _filled(x, torch.logical_not(hit), value) if isinstance(value, bool) else None
    ),
    aten.masked_fill.Scalar: _filled,
}
