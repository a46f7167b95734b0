"""Bounds behind bounds as one: onnxscript 0.7.2 makes one Clip of two, and goes by no order and takes a name twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def _told(low: str, high: str) -> Callable[..., tuple[Any, Any]]:
    """Bounds as a call gives them, by these names or in this order."""

    def read(*given: Any, **named: Any) -> tuple[Any, Any]:
        stated = dict(zip([name for name in (low, high) if name], given, strict=False)) | named
        return stated.get(low), stated.get(high)

    return read


_BOUNDS: dict[Any, Callable[..., tuple[Any, Any]]] = {  # operator → (low, high), None where there is none
    aten.clamp.default: _told("min", "max"),
    aten.clamp_min.default: _told("min", ""),
    aten.clamp_max.default: _told("", "max"),
    aten.hardtanh.default: lambda low=-1.0, high=1.0: (low, high),
    aten.relu.default: lambda: (0.0, None),
    aten.relu6.default: lambda: (0.0, 6.0),
}


def join_bounds(module: fx.GraphModule) -> None:
    """One clamp of floats in the place of the second of two, in place.

    Where nothing lies within the bounds of both, it gives the nearest of the second bounds. Both ends of a clamp are
    floats then: whole ones become a Max and a Min, and of two such pairs for one tensor onnxscript names the ends alike
    and stores those of one (findings/onnxscript_two_clips.sh, both).
    """
    for node in list(module.graph.nodes):
        second, source = _bounds(node), node.all_input_nodes[:1]
        first = _bounds(source[0]) if source else None
        if first and second:
            low, high = (min(max(bound, second[0]), second[1]) for bound in first)
            stated = (None if low == -math.inf else low, None if high == math.inf else high)
            args = source[0].args[0], *(stated if any(bound is not None for bound in stated) else (low, high))
            node.target, node.args, node.kwargs = aten.clamp.default, args, {}
        elif second and node.target is aten.clamp.default and all(map(math.isfinite, second)):
            node.args, node.kwargs = (node.args[0], *second), {}
    module.graph.eliminate_dead_code()
    module.recompile()


def _bounds(node: fx.Node) -> tuple[float, float] | None:
    """What a node keeps floats within; None where it does something else, or the bounds are tensors."""
    value = node.meta.get("val")
    if node.target not in _BOUNDS or not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    low, high = _BOUNDS[node.target](*node.args[1:], **node.kwargs)
    found = -math.inf if low is None else low, math.inf if high is None else high
    source = node.all_input_nodes[0].meta.get("val")
    floats = isinstance(source, torch.Tensor) and source.dtype == value.dtype
    return (float(found[0]), float(found[1])) if floats and all(isinstance(b, int | float) for b in found) else None
