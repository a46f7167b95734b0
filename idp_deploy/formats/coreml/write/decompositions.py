"""Operators that coremltools lacks or misreads, and for which PyTorch's decompositions end in ones it lacks as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.elementwise import CHOICES, log_sigmoid, taken_from
from idp_deploy.rewriting.images import unfold
from idp_deploy.rewriting.truths import MOVED_AS_NUMBERS

aten, prims = torch.ops.aten, torch.ops.prims


def _fmod(x: Tensor, y: Any) -> Tensor:
    return x - torch.div(x, y, rounding_mode="trunc") * y


def _trunc(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.floor(torch.abs(x))


def _lerp(x: Tensor, end: Tensor, weight: Any) -> Tensor:
    return x + (end - x) * weight


def _reciprocal(x: Tensor) -> Tensor:
    """One over x, for which coremltools writes 1 / (x + 1e-4)."""
    one = torch.ones([1] * max(1, x.dim()))
    return torch.div(one, x) if x.dim() else torch.div(one, x.unsqueeze(0)).squeeze(0)


def _acosh(x: Tensor) -> Tensor:
    return torch.log(x + torch.sqrt(x * x - 1))


def _asinh(x: Tensor) -> Tensor:
    size = torch.abs(x)
    return torch.sign(x) * torch.log(size + torch.sqrt(size * size + 1))


def _hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    return x * (torch.abs(x) > float(lambd)).to(x.dtype)


def _var(x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    axes = list(range(x.dim())) if not dim else [d % x.dim() for d in dim]
    count = math.prod(x.shape[a] for a in axes)
    squares = torch.square(x - x.mean(axes, keepdim=True))
    return squares.mean(axes, keepdim=keepdim) * (count / (count - (1.0 if correction is None else correction)))


def _std(x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return torch.sqrt(_var(x, dim, correction=correction, keepdim=keepdim))


def _var_mean(x: Tensor, dim: list[int] | None = None, **how: Any) -> tuple[Tensor, Tensor]:
    axes = dim if dim else list(range(x.dim()))
    return _var(x, dim, **how), x.mean(axes, keepdim=how.get("keepdim", False))


def _std_mean(x: Tensor, dim: list[int] | None = None, **how: Any) -> tuple[Tensor, Tensor]:
    variance, mean = _var_mean(x, dim, **how)
    return torch.sqrt(variance), mean


def _along(function: Callable[..., Any]) -> Callable[..., Any]:
    """The form that says `unbiased`, with axes."""

    def form(x: Tensor, dim: list[int] | None = None, unbiased: bool = True, keepdim: bool = False) -> Any:
        return function(x, dim, correction=float(unbiased), keepdim=keepdim)

    return form


def _of_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """The form that says `unbiased`, of all entries."""
    return lambda x, unbiased=True: function(x, correction=float(unbiased))


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """What is written over x, of its type and shape."""
    return source.to(x.dtype).expand(x.shape)


def _round(x: Tensor, *, decimals: int) -> Tensor:
    return torch.round(x * 10.0**decimals) / 10.0**decimals


def _rms_norm(x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    axes = list(range(x.dim() - len(shape), x.dim()))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    normal = x * torch.rsqrt(torch.square(x).mean(axes, keepdim=True) + eps)
    return normal if weight is None else normal * weight


def _meshgrid(tensors: list[Tensor], *, indexing: str = "ij") -> list[Tensor]:
    count = len(tensors)
    order = [1, 0, *range(2, count)] if indexing == "xy" and count > 1 else list(range(count))
    extents = [tensors[i].numel() for i in order]
    return [
        t.reshape([-1 if a == order.index(i) else 1 for a in range(count)]).expand(extents)
        for i, t in enumerate(tensors)
    ]


def _prod(x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    product = x.select(dim, 0)
    for i in range(1, x.shape[dim]):
        product = product * x.select(dim, i)
    return product.unsqueeze(dim) if keepdim else product


def _prelu(x: Tensor, slopes: Tensor) -> Tensor:
    a_channel = x.dim() > 1 and slopes.numel() > 1
    slopes = slopes.reshape([-1 if axis == 1 else 1 for axis in range(x.dim())]) if a_channel else slopes
    return torch.relu(x) - slopes * torch.relu(torch.neg(x))


def _cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    return torch.sum(_unit(x, dim, eps) * _unit(y, dim, eps), [dim])


def _unit(x: Tensor, dim: int, eps: float) -> Tensor:
    return x / torch.clamp_min(torch.sqrt(torch.sum(x * x, [dim], True)), eps)


def rows_at(x: Tensor, indices: list[Tensor | None]) -> Tensor | None:
    """`x[rows, columns]` of as many as the input tells, by one index: coremltools divides by how many these are."""
    first = indices[0]
    several = len(indices) > 1 and all(i is not None and i.dim() == 1 and i.dtype != torch.bool for i in indices)
    if not several or first is None or isinstance(first.shape[0], int):
        return None
    place = torch.zeros_like(first)
    for index, extent in zip(indices, x.shape, strict=False):
        assert index is not None
        place = place * extent + torch.where(index < 0, index + extent, index)
    return x.flatten(0, len(indices) - 1).index_select(0, place)


_SPREADS: dict[Any, Callable[..., Any]] = {
    aten.var: _var,
    aten.std: _std,
    aten.var_mean: _var_mean,
    aten.std_mean: _std_mean,
}
# Where none is said, as in `x.var()`, PyTorch corrects by 1 and coremltools by none.
VARIANCES: dict[Any, Callable[..., Any]] = {
    form: function
    for packet, spread in _SPREADS.items()
    for form, function in (
        (packet.default, _of_all(spread)),
        (packet.dim, _along(spread)),
        (packet.correction, spread),
    )
}
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    **MOVED_AS_NUMBERS,
    **VARIANCES,
    aten.acosh.default: _acosh,
    aten.asinh.default: _asinh,
    aten.copy.default: _copy,
    aten.fill.Scalar: lambda x, value: torch.full(x.shape, value, dtype=x.dtype),
    aten.fill.Tensor: _copy,
    aten.cosine_similarity.default: _cosine_similarity,
    aten.meshgrid.default: _meshgrid,
    aten.meshgrid.indexing: _meshgrid,
    aten.prelu.default: _prelu,
    aten.prod.dim_int: _prod,
    aten.reciprocal.default: _reciprocal,
    aten.rsub.Scalar: taken_from,
    aten.rsub.Tensor: taken_from,
    aten.fmod.Scalar: _fmod,
    aten.fmod.Tensor: _fmod,
    aten.trunc.default: _trunc,
    aten.fix.default: _trunc,
    aten.lerp.Scalar: _lerp,
    aten.lerp.Tensor: _lerp,
    aten.log_sigmoid.default: log_sigmoid,
    aten.hardshrink.default: _hardshrink,
    aten.round.decimals: _round,
    prims.where.default: torch.where,
    prims.mul.default: torch.mul,
    prims.div.default: torch.div,
    **CHOICES,
    aten.rms_norm.default: _rms_norm,
    aten.unfold.default: unfold,
}
