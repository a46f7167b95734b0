"""Splits while channels are traced: every part of one is a place of its own, which knows where it was cut out.

torch-pruning takes whoever reads a part for the part itself, in the order in which it meets them on its way back from
the outputs. So a part that two read is counted twice, one that nobody reads is none, and halves may change places. For
the time of tracing every part is copied, and the graph of derivatives tells which one a copy is of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SPLITS = (
    torch.chunk, torch.Tensor.chunk, torch.split, torch.Tensor.split, torch.split_with_sizes,
    torch.Tensor.split_with_sizes,
)  # fmt: skip
_MOST = 64  # axes of a tensor: more than that is a negative one, read as if it had no sign


class Apart(TorchFunctionMode):
    """Inside, the parts of a split are copies, and a gate says which halves it is made of."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.glu:
            return _gated(*args, **kwargs)
        result = func(*args, **kwargs)
        return type(result)(_copies(result)) if func in _SPLITS else result


def _copies(parts: Sequence[Tensor]) -> list[Tensor]:
    return [part.clone() for part in parts]


def _gated(input: Tensor, dim: int = -1) -> Tensor:
    passed, gate = _copies(input.chunk(2, dim))
    return passed * gate.sigmoid()


def measure_splits(graph: Any) -> None:
    """What each split of torch-pruning's graph cuts its channels into; None where it cuts another axis.

    Concatenations that were measured with other parts are to be measured again.
    """
    from torch_pruning.ops import OPTYPE

    nodes = list(graph.module2node.values())[::-1]  # what comes first in the forward is measured first
    for node in nodes:
        if node.type == OPTYPE.CONCAT:
            node.module.concat_sizes = None
        elif node.type == OPTYPE.SPLIT:
            node.module.split_sizes = None
            node.outputs.sort(key=partial(_place, node))
    for node in nodes:
        if node.type == OPTYPE.SPLIT:
            node.module.split_sizes = _sizes(graph, node)


def _place(node: Any, part: Any) -> int:
    """Which part of a split it is."""
    return next((k for grad_fn, k in getattr(part.grad_fn, "next_functions", ()) if grad_fn is node.grad_fn), -1)


def _sizes(graph: Any, node: Any) -> list[int] | None:
    from torch_pruning.dependency import shape_infer

    made, extents = None, list(node.grad_fn._saved_self_sym_sizes)
    axis = node.grad_fn._saved_dim
    axis = axis if axis < _MOST else axis - (1 << 64) + len(extents)
    with suppress(ZeroDivisionError, IndexError):
        made = shape_infer.infer_out_channels_recursively(graph, node.inputs[0], [0])
    if axis not in (1, len(extents) - 1) or (made is not None and made != extents[axis]):
        return None
    if hasattr(node.grad_fn, "_saved_split_sizes"):
        return list(node.grad_fn._saved_split_sizes)
    each = node.grad_fn._saved_split_size
    return [min(each, extents[axis] - begin) for begin in range(0, extents[axis], each)]


def follow_splits(graph: Any) -> None:
    """Where the channels of each part are in what was split, as its sizes say now."""
    from torch_pruning.dependency.index_mapping import _SplitIndexMapping
    from torch_pruning.ops import OPTYPE

    for node in graph.module2node.values():
        if node.type != OPTYPE.SPLIT:
            continue
        sizes = node.module.split_sizes
        for part in node.outputs:
            place = _place(node, part)
            found = None if sizes is None or place < 0 else [sum(sizes[:place]), sum(sizes[: place + 1])]
            for whole, dependencies, reverse in ((part, node.dependencies, False), (node, part.dependencies, True)):
                for dependency in dependencies:
                    if dependency.target is whole:
                        mapping = None if found is None else _SplitIndexMapping(offset=found, reverse=reverse)
                        dependency.index_mapping[0] = mapping
