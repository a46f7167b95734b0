"""scattering: entries added up, or compared, at places that only the input tells, by a comparison with every place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.elementwise import chosen
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 2**22  # comparisons: beyond, an operator that a format lacks is better refused


def _chosen(x: Tensor, dim: int, index: Tensor, source: Tensor, otherwise: float) -> Tensor | None:
    """What of `source` goes to each place along `dim`: an axis of places before that of entries."""
    dim %= max(1, x.dim())
    if not x.dim() or x.shape[dim] * index.numel() > _MOST or not source.is_floating_point():
        return None
    if any(n != m for axis, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if axis != dim):
        return None
    for axis, extent in enumerate(index.shape):
        source = source.narrow(axis, 0, extent) if extent < source.shape[axis] else source
    places = torch.arange(x.shape[dim]).reshape([-1] + [1] * (index.dim() - dim))
    return chosen(index.unsqueeze(dim) == places, source.unsqueeze(dim), otherwise)


def scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor | None:
    """x with every entry of `source` added at its place along `dim`."""
    found = _chosen(x, dim, index, source, 0.0)
    return None if found is None else x + found.sum(dim % x.dim() + 1)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor | None:
    """The same of whole slices: a product with a matrix of ones and zeros."""
    if not x.dim() or not source.is_floating_point() or x.shape[dim] * index.numel() > _MOST:
        return None
    chosen = (index.unsqueeze(0) == torch.arange(x.shape[dim]).unsqueeze(1)).to(x.dtype)
    slices = source.transpose(0, dim)
    added = (chosen @ slices.flatten(1)).reshape(x.transpose(0, dim).shape) if x.dim() > 1 else chosen @ slices
    return x + alpha * added.transpose(0, dim)


def index_put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """Rows added at places along the first axis, integers put there; None for the others, which converters hold."""
    if not accumulate and x.dtype == torch.int64:
        return torch.ops.aten.index_put(x.to(torch.int32), indices, values.to(torch.int32)).to(torch.int64)
    if not accumulate or len(indices) != 1 or indices[0] is None or indices[0].dim() != 1:
        return None
    rows = values.expand([indices[0].shape[0], *x.shape[1:]])
    return index_add(x, 0, indices[0], rows)


def whole_scatter(x: Tensor, dim: int, index: Tensor, source: Any) -> Tensor | None:
    """Integers put at places along `dim`, in 32 bits, which places have in TFLite."""
    if x.dtype != torch.int64:
        return None
    source = source.to(torch.int32) if isinstance(source, Tensor) else source
    return torch.scatter(x.to(torch.int32), dim, index, source).to(torch.int64)


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | None:
    """Sums, means, largest and smallest of what comes to each place, and of what was there."""
    if not include_self or reduce not in ("sum", "mean", "amax", "amin"):
        return None
    if reduce == "sum":
        return scatter_add(x, dim, index, source)
    axis = dim % max(1, x.dim()) + 1
    if reduce == "mean":
        total = scatter_add(x, dim, index, source)
        count = _chosen(x, dim, index, torch.ones_like(source), 0.0)
        return None if total is None or count is None else total / (count.sum(axis) + 1)
    lowest = torch.finfo(x.dtype).min if reduce == "amax" else torch.finfo(x.dtype).max
    found = _chosen(x, dim, index, source, lowest)
    if found is None:
        return None
    return torch.maximum(x, found.amax(axis)) if reduce == "amax" else torch.minimum(x, found.amin(axis))


def mean_of_scattered(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | None:
    """The mean of what comes to each place, as two sums: torch.onnx would keep the last of what is to be averaged."""
    if reduce != "mean":
        return None
    start = x if include_self else torch.zeros_like(x)
    given = torch.full_like(x, float(include_self)).scatter_add(dim, index, torch.ones_like(source))
    total = start.scatter_add(dim, index, source)
    count = torch.clamp(given, min=1)
    mean = total / count if x.is_floating_point() else total // count
    return mean if include_self else chosen(given > 0, mean, x)


def _in_place(row: Row) -> Row:
    def written(x: Tensor, *arguments: Any, **how: Any) -> Tensor | None:
        found = row(x, *arguments, **how)
        return None if found is None else x.copy_(found)

    return written


MEANS: dict[Any, Row] = {
    aten.scatter_reduce_.two: _in_place(mean_of_scattered),
    aten.scatter_reduce.two: mean_of_scattered,
}
SCATTERED: dict[Any, Row] = {
    aten.scatter_.src: _in_place(whole_scatter),
    aten.scatter_.value: _in_place(whole_scatter),
    aten.scatter.src: whole_scatter,
    aten.scatter.value: whole_scatter,
    aten.scatter_add_.default: _in_place(scatter_add),
    aten.index_add_.default: _in_place(index_add),
    aten.index_put_.default: _in_place(index_put),
    aten.scatter_reduce_.two: _in_place(scatter_reduce),
    aten.scatter_add.default: scatter_add,
    aten.index_add.default: index_add,
    aten.index_put.default: index_put,
    aten.scatter_reduce.two: scatter_reduce,
}
