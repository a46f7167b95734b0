"""Compositions as the one operator that they come to, so that no pass over the whole graph has to take them apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.rewriting.elementwise import taken_from
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def flatten(x: Tensor, start: int = 0, end: int = -1) -> Tensor:
    """Neighbouring axes as one; a number gets one axis."""
    if not x.dim():
        return x.reshape([1])
    start, end = start % x.dim(), end % x.dim() + 1
    return x.reshape([*x.shape[:start], math.prod(x.shape[start:end]), *x.shape[end:]])


def unflatten(x: Tensor, dim: int, sizes: list[int]) -> Tensor:
    """One axis as several."""
    dim %= x.dim()
    return x.reshape([*x.shape[:dim], *sizes, *x.shape[dim + 1 :]])


def cast(x: Tensor, dtype: torch.dtype, non_blocking: bool = False, copy: bool = False, **layout: Any) -> Tensor | None:
    """The same numbers in another type."""
    return None if x.dtype == dtype else aten._to_copy.default(x, dtype=dtype)


def _turned(x: Tensor) -> Tensor | None:
    """The last two axes in each other's place."""
    return None if x.is_complex() or x.dim() < 2 else x.transpose(-2, -1)


def moved(x: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes put elsewhere, the others as they stood.

    >>> moved(torch.zeros(2, 3, 4), [0], [-1]).shape
    torch.Size([3, 4, 2])
    """
    places, axes = ([each] if isinstance(each, int) else each for each in (destination, source))
    put = {place % x.dim(): axis % x.dim() for place, axis in zip(places, axes, strict=True)}
    others = iter(axis for axis in range(x.dim()) if axis not in put.values())
    return x.permute([put[place] if place in put else next(others) for place in range(x.dim())])


def drop_casts(graph: fx.Graph) -> None:
    """Leave out, in place, casts to the type that a result has already."""
    for node in graph.find_nodes(op="call_function", target=aten.to.dtype):
        source: Any = node.args[0]
        if source.op == "call_function" and source.meta["val"].dtype == node.args[1]:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


COMPOSITIONS: dict[Any, Row] = {
    aten.flatten.using_ints: flatten,
    aten.rsub.Scalar: taken_from,
    aten.rsub.Tensor: taken_from,
    aten.to.dtype: cast,
    aten.unflatten.int: unflatten,
    aten.mT.default: _turned,
    aten.mH.default: _turned,
    aten.adjoint.default: _turned,
    aten.numpy_T.default: lambda x: x.permute(list(reversed(range(x.dim())))),
    **{getattr(move, form): moved for move in (aten.movedim, aten.moveaxis) for form in ("int", "intlist")},
    aten.swapaxes.default: torch.transpose,
    aten.swapdims.default: torch.transpose,
}
