"""Operators along one axis, said in plainer ones: orders, neighbours, running products and sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def diff(x: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor | None:
    """Each entry less the one before it."""
    if n != 1:
        return None
    parts = [part for part in (prepend, x, append) if part is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else x
    before, after = x.narrow(dim, 0, x.shape[dim] - 1), x.narrow(dim, 1, x.shape[dim] - 1)
    return before ^ after if x.dtype == torch.bool else after - before


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Places along the last axis first, the smallest as the largest of what is negated; values by their places.

    Of values alone litert-torch makes a sort, for which LiteRT has no kernel.
    """
    turned = x.transpose(dim, -1)
    places = (turned if largest else -turned).topk(k).indices
    return turned.gather(-1, places).transpose(dim, -1), places.transpose(dim, -1)


def sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """As many of the largest as there are."""
    return topk(x, x.shape[dim], dim, descending)


def _stable_sort(x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    return sort(x, dim, descending)


def cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor | None:
    """Products of 2, 4, 8, … neighbours, with 1 before the first; integers in 64 bits, as torch does."""
    if not x.dim() or not x.dtype.is_signed or x.is_complex():
        return None
    x = x.to(dtype or (x.dtype if x.is_floating_point() else torch.int64))
    turned, reach = x.transpose(dim, -1), 1
    while reach < turned.shape[-1]:
        before = torch.nn.functional.pad(turned.narrow(-1, 0, turned.shape[-1] - reach), (reach, 0), value=1)
        turned, reach = turned * before, 2 * reach
    return turned.transpose(dim, -1)


def cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor] | None:
    """The largest so far, and where it stood last: an entry that is no smaller than all before it stands for itself."""
    if not x.dim() or x.dtype == torch.bool:
        return None
    turned = x.transpose(dim, -1)
    largest = _largest_so_far(turned)
    own = torch.arange(turned.shape[-1], dtype=torch.int32)
    places = _largest_so_far(torch.where(turned == largest, own, torch.zeros_like(own))).to(torch.int64)
    return largest.transpose(dim, -1), places.transpose(dim, -1)


def cummin(x: Tensor, dim: int) -> tuple[Tensor, Tensor] | None:
    """The largest so far of what is negated."""
    if not x.dtype.is_signed or (found := cummax(torch.neg(x), dim)) is None:
        return None
    return torch.neg(found[0]), found[1]


def _largest_so_far(x: Tensor) -> Tensor:
    """Of 2, 4, 8, … neighbours along the last axis, with the first one before the first."""
    reach = 1
    while reach < x.shape[-1]:
        first = x.narrow(-1, 0, 1).expand(*x.shape[:-1], reach)
        x, reach = torch.maximum(x, torch.cat([first, x.narrow(-1, 0, x.shape[-1] - reach)], -1)), 2 * reach
    return x


def logcumsumexp(x: Tensor, dim: int) -> Tensor | None:
    """Sums of 2, 4, 8, … neighbours of what the logarithms are of, with next to nothing before the first."""
    if not x.dim() or not x.is_floating_point():
        return None
    turned, reach = x.transpose(dim, -1), 1
    while reach < turned.shape[-1]:
        before = turned.narrow(-1, 0, turned.shape[-1] - reach)
        before = torch.nn.functional.pad(before, (reach, 0), value=torch.finfo(torch.float16).min)
        most, apart = torch.maximum(turned, before), torch.abs(turned - before)
        turned, reach = most + torch.log(1 + torch.exp(-apart)), 2 * reach
    return turned.transpose(dim, -1)


def searchsorted(
    sorted: Tensor,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor | None:
    """How many of the last axis of `sorted` lie before x: (…, n), (…, m) → (…, m); or (n), any → any."""
    if not isinstance(x, Tensor):
        return None
    sorted = sorted if sorter is None else sorted.gather(-1, sorter)
    ordered, places = sorted.unsqueeze(-2), x.unsqueeze(-1)
    before = ordered <= places if right or side == "right" else ordered < places
    return before.to(torch.int32).sum(-1).to(torch.int32 if out_int32 else torch.int64)


def quantile(
    x: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor | None:
    """What lies at a share of the way through the entries in order, between the two beside it."""
    several = isinstance(q, Tensor) and q.dim() == 1
    if interpolation != "linear" or (isinstance(q, Tensor) and q.dim() > 1) or not x.dim():
        return None
    turned = x.flatten() if dim is None else x.transpose(dim, -1)
    ordered = sort(turned, -1)[0]
    place = torch.as_tensor(q, dtype=x.dtype).reshape(-1) * (turned.shape[-1] - 1)
    low = torch.floor(place)
    below, above = (ordered.index_select(-1, p.long()) for p in (low, torch.ceil(place)))
    found = below + (above - below) * (place - low)  # (…, shares)
    shares = [f.unsqueeze(-1) for f in found.unbind(-1)]
    if dim is None:
        kept = [f.reshape([1] * x.dim() if keepdim else []) for f in shares]
    else:
        kept = [f.transpose(dim, -1) if keepdim else f.transpose(dim, -1).squeeze(dim) for f in shares]
    return torch.stack(kept) if several else kept[0]


def _place_of_whole(best: Callable[..., Tensor]) -> Row:
    """The first place of the largest or smallest whole number, as that of the first true: TFLite ranks few types."""

    def row(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | None:
        if x.is_floating_point() or x.dtype == torch.int32 or not x.dim():
            return None
        line, axis = (x.flatten(), 0) if dim is None else (x, dim)
        line = line if x.dtype == torch.int64 else line.to(torch.int32)
        place = (line == best(line, [axis], True)).to(torch.int32).argmax(axis, keepdim and dim is not None)
        return place.reshape([1] * x.dim()) if keepdim and dim is None else place

    return row


def _whole_with_place(best: Callable[..., Tensor]) -> Row:
    place_of = _place_of_whole(best)

    def row(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor] | None:
        place = place_of(x, dim, keepdim)
        line = x if x.dtype == torch.int64 else x.to(torch.int32)
        return None if place is None else (best(line, [dim], keepdim).to(x.dtype), place)

    return row


ORDERS: dict[Any, Row] = {
    aten.argmax.default: _place_of_whole(torch.amax),
    aten.argmin.default: _place_of_whole(torch.amin),
    aten.max.dim: _whole_with_place(torch.amax),
    aten.min.dim: _whole_with_place(torch.amin),
    aten.topk.default: topk,
    aten.sort.default: sort,
    aten.sort.stable: _stable_sort,
    aten.quantile.default: quantile,
    aten.quantile.scalar: quantile,
    aten.argsort.default: lambda x, dim=-1, descending=False: sort(x, dim, descending)[1],
    aten.argsort.stable: lambda x, *, stable, dim=-1, descending=False: sort(x, dim, descending)[1],
}
STABLE: dict[Any, Row] = {  # where the order of equals is theirs anyway
    aten.sort.stable: lambda x, *, stable, dim=-1, descending=False: torch.sort(x, dim, descending),
    aten.argsort.stable: lambda x, *, stable, dim=-1, descending=False: torch.sort(x, dim, descending)[1],
}
ALONG_A_LINE: dict[Any, Row] = {
    aten.cummax.default: cummax,
    aten.cummin.default: cummin,
    aten.cumprod.default: cumprod,
    aten.logcumsumexp.default: logcumsumexp,
    aten.searchsorted.Tensor: searchsorted,
    aten.bucketize.Tensor: lambda x, bins, **how: searchsorted(bins, x, **how),
}
