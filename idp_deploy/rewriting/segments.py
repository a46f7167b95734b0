"""segments: entries gathered up by places or by lengths, and those that occur most, by comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.elementwise import chosen
from idp_deploy.rewriting.placing import FLAT, in_place
from idp_deploy.rewriting.scattering import scatter_reduce
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 2**22  # comparisons: beyond, an operator that a format lacks is better refused


def index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | None:
    """Products, means, largest and smallest of what comes to each place along `dim`, and of what was there."""
    dim %= max(1, x.dim())
    places = index.reshape([-1 if axis == dim else 1 for axis in range(x.dim())]).expand(source.shape)
    return scatter_reduce(x, dim, places, source, reduce, include_self=include_self)


def segment_reduce(
    x: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor | None:
    """Sums, means, products, largest and smallest of rows that follow each other: as many as each length says."""
    given = lengths if lengths is not None else offsets
    if given is None or given.dim() != 1 or axis != 0 or indices is not None or not x.is_floating_point():
        return None
    ends = given.cumsum(0) if offsets is None else given[1:]
    starts = ends - given if offsets is None else given[:-1]
    if ends.shape[0] * x.numel() > _MOST:
        return None
    places = torch.arange(x.shape[0]).unsqueeze(0)
    inside = torch.logical_and(places >= starts.unsqueeze(1), places < ends.unsqueeze(1))
    inside = inside.reshape(*inside.shape, *[1] * (x.dim() - 1))
    usual = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "max": -torch.inf, "min": torch.inf}[reduce]
    start = usual if initial is None else float(initial)
    found = chosen(inside.expand(*inside.shape[:2], *x.shape[1:]), x.unsqueeze(0), usual)
    if reduce == "max":
        return found.amax(1).clamp(min=start) if initial is not None else found.amax(1)
    if reduce == "min":
        return found.amin(1).clamp(max=start) if initial is not None else found.amin(1)
    if reduce == "prod":
        return found.prod(1) * start
    total = found.sum(1) + start
    if reduce == "sum":
        return total
    count = (ends - starts).to(x.dtype).reshape([-1] + [1] * (x.dim() - 1))
    return chosen(
        (count > 0).expand(total.shape), total / torch.clamp(count, min=1), torch.nan if initial is None else start
    )


def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor] | None:
    """What occurs most along `dim`, the smallest of several, and where it stands last."""
    if not x.dim() or x.dtype == torch.bool or x.numel() * x.shape[dim] > _MOST:
        return None
    turned = x.movedim(dim, -1)
    often = (turned.unsqueeze(-1) == turned.unsqueeze(-2)).to(torch.int32).sum(-1, dtype=torch.int32)
    most = often == often.amax(-1, keepdim=True)
    highest = torch.inf if x.is_floating_point() else torch.iinfo(torch.int32).max
    value = chosen(most, turned, highest).amin(-1, keepdim=True)
    own = torch.arange(turned.shape[-1], dtype=torch.int32)
    place = torch.where(turned == value, own, torch.zeros_like(own)).amax(-1, keepdim=True).to(torch.int64)
    value, place = value.movedim(-1, dim), place.movedim(-1, dim)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


SEGMENTS: dict[Any, Row] = {
    aten.index_reduce.default: index_reduce,
    aten.index_reduce_.default: in_place(index_reduce),
    aten.mode.default: mode,
    aten.segment_reduce.default: segment_reduce,
    **FLAT,
}
