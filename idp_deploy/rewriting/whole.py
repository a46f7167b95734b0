"""Arithmetic of whole numbers, which a converter has for floats alone, or takes a detour through floats for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.elementwise import high_power
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 16  # factors of a power that stand one after the other in the file


def _is_whole(*values: Any) -> bool:
    """Whether all are integers, none a truth value."""
    for value in values:
        kind = value.dtype if isinstance(value, Tensor) else type(value)
        if kind is not int and (kind in (torch.bool, bool, float) or kind.is_floating_point or kind.is_complex):
            return False
    return True


def size(x: Tensor) -> Tensor | None:
    """|x|."""
    return torch.maximum(x, torch.neg(x)) if _is_whole(x) else None


def sign(x: Tensor) -> Tensor | None:
    """−1, 0 or 1."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype) if _is_whole(x) else None


def relu(x: Tensor) -> Tensor | None:
    """What is negative as 0."""
    return torch.maximum(x, torch.zeros((), dtype=x.dtype)) if _is_whole(x) else None


def power(x: Tensor, exponent: Any) -> Tensor | None:
    """x as often as the exponent says."""
    if not _is_whole(x, exponent) or not 0 < exponent <= _MOST:
        return None
    product = x
    for _ in range(1, exponent):
        product = product * x
    return product


def cut(x: Any, y: Any, *, rounding_mode: str | None = "trunc") -> Tensor | None:
    """x / y without its fraction: rounded towards 0, or down."""
    if rounding_mode is None or not _is_whole(x, y):
        return None
    if rounding_mode == "floor":
        return torch.floor_divide(x, y)
    sizes, signs = ([of(v) for v in (x, y)] for of in (_size, _sign))
    return torch.floor_divide(*sizes) * (signs[0] * signs[1])


def _size(x: Any) -> Any:
    return abs(x) if isinstance(x, int) else size(x)


def _sign(x: Any) -> Any:
    return (x > 0) - (x < 0) if isinstance(x, int) else sign(x)


def left_of_cut(x: Any, y: Any) -> Tensor | None:
    """What is left of x, of its own sign."""
    whole = cut(x, y)
    return None if whole is None else x - whole * y


def product(x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor | None:
    """One entry of an axis times the other."""
    if not _is_whole(x) or dtype not in (None, torch.int64) or not isinstance(x.shape[dim], int) or not x.shape[dim]:
        return None
    parts = x.to(torch.int64).split(1, dim)
    result = parts[0]
    for part in parts[1:]:
        result = result * part
    return result if keepdim else result.squeeze(dim)


def joined(parts: list[Tensor], dim: int = 0) -> Tensor | None:
    """Integers beside floats as floats."""
    kind = parts[0].dtype
    for part in parts[1:]:
        kind = torch.promote_types(kind, part.dtype)
    return None if all(part.dtype == kind for part in parts) else torch.cat([part.to(kind) for part in parts], dim)


def _of_a_number(operator: Callable[..., Tensor]) -> Row:
    """A number before a tensor, in the type of both."""

    def row(x: Any, y: Any) -> Tensor | None:
        if isinstance(x, Tensor) or not isinstance(y, Tensor):
            return None
        kind = torch.result_type(x, y)
        return operator(torch.full((), x, dtype=kind), y.to(kind))

    return row


OF_A_NUMBER: dict[Any, Row] = {
    aten.floor_divide.default: _of_a_number(torch.floor_divide),
    aten.remainder.Scalar_Tensor: _of_a_number(torch.remainder),
}


PRODUCTS: dict[Any, Row] = {aten.prod.dim_int: product}
RELU: dict[Any, Row] = {aten.relu.default: relu}
WHOLE: dict[Any, Row] = {
    **OF_A_NUMBER,
    **PRODUCTS,
    **RELU,
    aten.abs.default: size,
    aten.sign.default: sign,
    aten.cat.default: joined,
    aten.div.Tensor_mode: cut,
    aten.div.Scalar_mode: cut,
    aten.fmod.Scalar: left_of_cut,
    aten.fmod.Tensor: left_of_cut,
    aten.pow.Tensor_Scalar: lambda x, exponent: power(x, exponent) if _is_whole(x) else high_power(x, exponent),
}
