"""placing: entries read and put at places of several axes at once, of the flat tensor, or of the memory it lies in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 2**22  # comparisons: beyond, an operator that a format lacks is better refused


def put_at(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """`x[:, places, others] = values`, or += them: rows put along one axis, into which those of the places go."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    if any(index.dtype == torch.bool for index in given):
        return None
    others = [axis for axis in range(x.dim()) if axis not in axes]
    rest = [x.shape[axis] for axis in others]
    places = _merged([x.shape[axis] for axis in axes], given)
    before = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    values = values.to(x.dtype).expand([*rest[:before], *places.shape, *rest[before:]])
    spread = list(range(before, before + places.dim()))
    values = values.permute(spread + [axis for axis in range(values.dim()) if axis not in spread])
    order = axes + others
    rows = x.permute(order).reshape(math.prod(x.shape[axis] for axis in axes), -1)
    put = _put_rows(rows, places.reshape(-1), values.reshape(-1, rows.shape[1]), accumulate)
    if put is None:
        return None
    put = put.reshape([x.shape[axis] for axis in order])
    if order == sorted(order):
        return put
    turned = put.permute([order.index(axis) for axis in range(x.dim())])
    return turned.clone(memory_format=torch.contiguous_format)  # as x lies, where views of it may be read


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor | None:
    """Entries put at places of the flat tensor."""
    places = _merged([x.numel()], [index.flatten()])
    found = _put_rows(x.reshape(-1, 1), places, source.to(x.dtype).reshape(-1, 1), accumulate)
    return None if found is None else found.reshape(x.shape)


def as_strided(x: Tensor, size: list[int], stride: list[int], storage_offset: int | None = None) -> Tensor | None:
    """Entries by where they lie in memory, which is read in the order of x's own strides."""
    flat = _by_memory(x)
    places = _places(x, size, stride, storage_offset)
    return None if flat is None or places is None else flat.index_select(0, places.reshape(-1)).reshape(size)


def as_strided_scatter(
    x: Tensor, source: Tensor, size: list[int], stride: list[int], storage_offset: int | None = None
) -> Tensor | None:
    """x with `source` where these lie."""
    flat, order = _by_memory(x), _order(x)
    places = _places(x, size, stride, storage_offset)
    if flat is None or places is None:
        return None
    flat = flat.scatter(0, places.reshape(-1), source.to(x.dtype).reshape(-1))
    return flat.reshape([x.shape[axis] for axis in order]).permute([order.index(axis) for axis in range(x.dim())])


def _merged(extents: Sequence[Any], indices: Sequence[Tensor]) -> Tensor:
    """Places on several axes as one, of which those below zero count from the end of theirs."""
    total: Any = None
    for extent, index in zip(extents, torch.broadcast_tensors(*indices), strict=True):
        index = index.to(torch.int64)
        index = torch.where(index < 0, index + extent, index)
        total = index if total is None else total * extent + index
    assert isinstance(total, Tensor)
    return total


def _put_rows(rows: Tensor, places: Tensor, values: Tensor, accumulate: bool) -> Tensor | None:
    if not accumulate:
        return rows.scatter(0, places.unsqueeze(1).expand(values.shape), values)
    if not rows.is_floating_point() or rows.shape[0] * places.shape[0] > _MOST:
        return None
    chosen = places.unsqueeze(0) == torch.arange(rows.shape[0]).unsqueeze(1)
    return rows + chosen.to(rows.dtype) @ values


def _order(x: Tensor) -> list[int]:
    """The axes from the largest step in memory to the smallest."""
    return sorted(range(x.dim()), key=lambda axis: (-x.stride()[axis], axis))


def _by_memory(x: Tensor) -> Tensor | None:
    """The entries in the order in which they lie; None where there are gaps between them, or one is several."""
    turned = x.permute(_order(x))
    return turned.reshape(-1) if turned.is_contiguous() else None


def _places(x: Tensor, size: list[int], stride: list[int], storage_offset: int | None) -> Tensor | None:
    start = 0 if storage_offset is None else storage_offset - x.storage_offset()
    last = start + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if start < 0 or last >= x.numel() or not size:
        return None
    total: Any = start
    for axis, (extent, step) in enumerate(zip(size, stride, strict=True)):
        total = total + (torch.arange(extent) * step).reshape([-1] + [1] * (len(size) - 1 - axis))
    assert isinstance(total, Tensor)
    return total


def in_place(row: Row) -> Row:
    """The same, written into what it is made of."""

    def written(x: Tensor, *arguments: Any, **how: Any) -> Tensor | None:
        found = row(x, *arguments, **how)
        return None if found is None else x.copy_(found)

    return written


FLAT: dict[Any, Row] = {
    aten.put.default: put,
    aten.put_.default: in_place(put),
    aten.narrow_copy.default: torch.narrow,
}
MEMORY: dict[Any, Row] = {  # by strides as the trace has them: before any other row
    aten.as_strided.default: as_strided,
    aten.as_strided_copy.default: as_strided,
    aten.as_strided_scatter.default: as_strided_scatter,
}
