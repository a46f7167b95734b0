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
}
