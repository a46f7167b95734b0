"""diagonals: what is put on them, chosen by which place lies there, where torch writes through strides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.rewriting.elementwise import chosen
from idp_deploy.rewriting.spelling import Row
from idp_deploy.rewriting.truths import choice

aten = torch.ops.aten


def diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """`source` (…, length) on a diagonal of two axes of `x`."""
    turned = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = turned.shape[-2:]
    before = max(0, offset)
    source = source.to(torch.int32) if source.dtype == torch.bool else source
    along = F.pad(source, (before, columns - before - source.shape[-1])).unsqueeze(-2)  # each in its own column
    along = along > 0 if x.dtype == torch.bool else along.to(x.dtype)
    hit = torch.arange(rows).unsqueeze(1) + offset == torch.arange(columns)
    whole = choice(hit, along, turned)
    whole = torch.where(hit, along, turned) if whole is None else whole
    return whole.movedim((-2, -1), (dim1, dim2))


def fill_diagonal(x: Tensor, value: Any, wrap: bool = False) -> Tensor:
    """One number where all places are equal; of a tall matrix that wraps, in every (columns + 1)-th entry."""
    if wrap and x.dim() == 2:
        rows, columns = x.shape
        hit = torch.arange(rows * columns).reshape(rows, columns) % (columns + 1) == 0
    else:
        first, *others = (
            torch.arange(extent).reshape([-1 if axis == own else 1 for axis in range(x.dim())])
            for own, extent in enumerate(x.shape)
        )
        hit = first == others[0]
        for other in others[1:]:
            hit = torch.logical_and(hit, first == other)
    if x.dtype != torch.bool:
        return chosen(hit.expand(x.shape), value, x)
    return torch.logical_or(x, hit) if value else torch.logical_and(x, torch.logical_not(hit))


def _fill_diagonal(x: Tensor, value: Any, wrap: bool = False) -> Tensor:
    return x.copy_(fill_diagonal(x, value, wrap))


DIAGONALS: dict[Any, Row] = {
    aten.diagonal_scatter.default: diagonal_scatter,
    aten.fill_diagonal_.default: _fill_diagonal,
}
