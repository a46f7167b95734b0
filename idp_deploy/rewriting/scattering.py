"""scattering: entries added up, or compared, at places that only the input tells, by a comparison with every place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.elementwise import chosen
from idp_deploy.rewriting.placing import in_place, put_at
from idp_deploy.rewriting.spelling import Row
from idp_deploy.rewriting.truths import choice

aten = torch.ops.aten
_MOST = 2**22  # comparisons: beyond, an operator that a format lacks is better refused


def _chosen(x: Tensor, dim: int, index: Tensor, source: Tensor, otherwise: float) -> Tensor | None:
    """What of `source` goes to each place along `dim`: an axis of places before that of entries."""
    dim %= max(1, x.dim())
    if not x.dim() or x.shape[dim] * index.numel() > _MOST or source.dtype == torch.int64:
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
    if x.dim() == 1:
        return x + alpha * (chosen * slices).sum(1)
    return x + alpha * (chosen @ slices.flatten(1)).reshape(x.transpose(0, dim).shape).transpose(0, dim)


def put_where(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """`x[mask] = values` or `x[:, mask] = values`, the same for all of those: a choice between two; else None."""
    *before, mask = indices
    if accumulate or mask is None or mask.dtype != torch.bool or any(index is not None for index in before):
        return None
    row = x.shape[len(before) + mask.dim() :]
    if values.dim() > len(row):  # the axis of what is chosen, which must be the same for all
        at = values.dim() - len(row) - 1
        if at > len(before) or values.shape[at] != 1:
            return None
        values = values.reshape(*values.shape[:at], *[1] * mask.dim(), *values.shape[at + 1 :])
    return torch.where(mask.reshape(*mask.shape, *[1] * len(row)), values.to(x.dtype).expand(x.shape), x)


def put_along(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """`x[:, places] = values`: places along one axis that is not the first; None for the others."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if accumulate or len(axes) != 1 or not axes[0]:
        return None
    places = indices[axes[0]]
    assert places is not None
    if places.dim() != 1 or places.dtype == torch.bool:
        return None
    return index_copy(x, axes[0], places, values)


def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Slices put at places along `dim`, of which those below zero count from the end."""
    dim %= x.dim()
    shape = [*x.shape[:dim], index.numel(), *x.shape[dim + 1 :]]
    index = torch.where(index < 0, index + x.shape[dim], index)
    places = index.reshape([-1 if axis == dim else 1 for axis in range(x.dim())]).expand(shape)
    source = source.to(x.dtype).expand(shape)
    whole = truths_scattered(x, dim, places, source)
    return x.scatter(dim, places, source) if whole is None else whole


def index_fill(x: Tensor, dim: int, index: Tensor, value: Any) -> Tensor | None:
    """One value at places along `dim`."""
    if not x.dim():
        return None
    dim %= x.dim()
    places = torch.where(index < 0, index + x.shape[dim], index)
    hit = (torch.arange(x.shape[dim]).unsqueeze(1) == places.reshape(1, -1)).any(1)
    hit = hit.reshape([-1 if axis == dim else 1 for axis in range(x.dim())]).expand(x.shape)
    return chosen(hit, value, x)


def select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """One slice put at its place along `dim`, by a choice: torch.onnx spreads its place over the example's batch."""
    dim %= x.dim()
    hit = torch.arange(x.shape[dim]) == index % x.shape[dim]
    hit = hit.reshape([-1 if axis == dim else 1 for axis in range(x.dim())])
    source = source.unsqueeze(dim)
    whole = choice(hit, source, x)
    return torch.where(hit, source, x) if whole is None else whole


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The entries of `source`, one after the other, where the mask is true: each by how many of them came before."""
    mask = mask.expand(x.shape)
    places = (mask.flatten().to(torch.int32).cumsum(0) - 1).clamp(0, source.numel() - 1).long()
    return torch.where(mask, source.flatten().index_select(0, places).reshape(x.shape).to(x.dtype), x)


def index_put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """Rows added along the first axis, values where a mask says, integers put anywhere; None for the others."""
    if (found := put_where(x, indices, values, accumulate)) is not None:
        return found
    if accumulate and len([index for index in indices if index is not None]) > 1:
        return put_at(x, indices, values, accumulate)
    if not accumulate and x.dtype == torch.int64:
        return torch.ops.aten.index_put(x.to(torch.int32), indices, values.to(torch.int32)).to(torch.int64)
    return add_rows(x, indices, values, accumulate)


def add_rows(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """Slices added at places along one axis, of which those below zero count from the end; None for the others."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    index = indices[axes[0]] if len(axes) == 1 else None
    if not accumulate or index is None or index.dim() != 1 or index.dtype == torch.bool:
        return None
    dim = axes[0]
    index = torch.where(index < 0, index + x.shape[dim], index)
    return index_add(x, dim, index, values.expand([*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]]))


def whole_scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor | None:
    """The same of sums: entries of floats by a comparison with every place, integers in 32 bits."""
    if x.dtype != torch.int64:
        return scatter_add(x, dim, index, source)
    found = _chosen(x, dim, index, source.to(torch.int32), 0)
    return None if found is None else x + found.sum(dim % x.dim() + 1, dtype=torch.int32).to(torch.int64)


def whole_scatter(x: Tensor, dim: int, index: Tensor, source: Any) -> Tensor | None:
    """Integers put at places along `dim`, in 32 bits, which places have in TFLite."""
    if x.dtype != torch.int64:
        return None
    source = source.to(torch.int32) if isinstance(source, Tensor) else source
    return torch.scatter(x.to(torch.int32), dim, index, source).to(torch.int64)


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | None:
    """Sums, means, products, largest and smallest of what comes to each place, and of what was there.

    Without that, `x` stays where nothing comes. Integers in 32 bits.
    """
    if x.dtype == torch.bool:
        return None
    kind = x.dtype if x.is_floating_point() else torch.int32
    found = _reduced(x.to(kind), dim, index, source.to(kind), reduce, include_self)
    return None if found is None else found.to(x.dtype)


def _reduced(x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, include_self: bool) -> Tensor | None:
    axis = dim % max(1, x.dim()) + 1
    ends = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    empty = {"sum": 0, "mean": 0, "prod": 1, "amax": ends.min, "amin": ends.max}[reduce]
    came = _chosen(x, dim, index, source, empty)
    if came is None:
        return None
    start = x if include_self else torch.full_like(x, empty)
    if reduce == "amax":
        result = torch.maximum(start, came.amax(axis))
    elif reduce == "amin":
        result = torch.minimum(start, came.amin(axis))
    elif reduce == "prod":
        result = start * came.prod(axis, dtype=x.dtype)
    else:
        result = start + came.sum(axis, dtype=x.dtype)
    if reduce != "mean" and include_self:
        return result
    count = _chosen(x, dim, index, torch.ones_like(source), 0)
    assert count is not None
    count = count.sum(axis, dtype=x.dtype)
    if reduce == "mean":
        whole = count + 1 if include_self else torch.maximum(count, torch.ones_like(count))
        result = result / whole if x.is_floating_point() else torch.floor_divide(result, whole).to(x.dtype)
    return result if include_self else chosen(count > 0, result, x)


def truths_scattered(x: Tensor, dim: int, index: Tensor, source: Any) -> Tensor | None:
    """Truth values put at places along `dim`, as 1 and 0."""
    if x.dtype != torch.bool:
        return None
    source = source.to(torch.int32) if isinstance(source, Tensor) else int(source)
    return torch.scatter(x.to(torch.int32), dim, index, source) > 0


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


def _put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
    if x.dtype == torch.bool and not by_mask:
        found = _put(x.to(torch.int32), indices, values.to(torch.int32), accumulate)
        whole = aten.index_put(x.to(torch.int32), indices, values.to(torch.int32), accumulate)
        return (whole if found is None else found) > 0
    rows = (put_where, put_along, add_rows, *([] if _by_rows_alike(indices) else [put_at]))
    return next((found for row in rows if (found := row(x, indices, values, accumulate)) is not None), None)


def _by_rows_alike(indices: list[Tensor | None]) -> bool:
    """Whether the places are on the first axes, and of one shape: coremltools has those."""
    return None not in indices and len({index.shape for index in indices if index is not None}) == 1


def _wide_places(operator: Any, at: int) -> Row:
    """Places in 64 bits: ONNX's operators take no others, and torch.onnx hands on those of 32 as they are."""

    def row(*arguments: Any, **how: Any) -> Tensor | None:
        given = arguments[at] if isinstance(arguments[at], list) else [arguments[at]]
        wide = [each.to(torch.int64) if each is not None and each.dtype == torch.int32 else each for each in given]
        if all(one is other for one, other in zip(wide, given, strict=True)):
            return None
        placed = wide if isinstance(arguments[at], list) else wide[0]
        return operator(*arguments[:at], placed, *arguments[at + 1 :], **how)  # type: ignore[no-any-return]

    return row


def _put_wide(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor | None:
    """The same where something is put, and a choice for a mask behind other axes, which torch.onnx has no word for."""
    found = put_where(x, indices, values, accumulate) if indices[0] is None else None
    return _wide_places(aten.index_put.default, 1)(x, indices, values, accumulate) if found is None else found


WIDE_PLACES: dict[Any, Row] = {
    operator: _wide_places(operator, at)
    for operator, at in (
        (aten.index.Tensor, 1),
        (aten.index_add.default, 2),
        (aten.index_add_.default, 2),
    )
}
WIDE_PLACES[aten.index_put.default] = _put_wide
WIDE_PLACES[aten.index_put_.default] = in_place(_put_wide)
MEANS: dict[Any, Row] = {
    aten.scatter_reduce_.two: in_place(mean_of_scattered),
    aten.scatter_reduce.two: mean_of_scattered,
}
PUT: dict[Any, Row] = {
    aten.index_copy.default: index_copy,
    aten.index_copy_.default: in_place(index_copy),
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill_.int_Scalar: in_place(index_fill),
    aten.index_put.default: _put,
    aten.index_put_.default: in_place(_put),
    aten.masked_scatter.default: masked_scatter,
    aten.masked_scatter_.default: in_place(masked_scatter),
    aten.scatter.src: truths_scattered,
    aten.scatter.value: truths_scattered,
    aten.scatter_.src: in_place(truths_scattered),
    aten.scatter_.value: in_place(truths_scattered),
}
SCATTERED: dict[Any, Row] = {
    aten.masked_scatter.default: masked_scatter,
    aten.masked_scatter_.default: in_place(masked_scatter),
    aten.scatter_.src: in_place(whole_scatter),
    aten.scatter_.value: in_place(whole_scatter),
    aten.scatter.src: whole_scatter,
    aten.scatter.value: whole_scatter,
    aten.scatter_add_.default: in_place(whole_scatter_add),
    aten.index_add_.default: in_place(index_add),
    aten.index_put_.default: in_place(index_put),
    aten.scatter_reduce_.two: in_place(scatter_reduce),
    aten.scatter_add.default: whole_scatter_add,
    aten.index_add.default: index_add,
    aten.index_put.default: index_put,
    aten.scatter_reduce.two: scatter_reduce,
}
