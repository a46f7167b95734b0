"""Parts that are a whole: a chunk of one, what is joined of one, tensors spread together of which each has one shape.

A batch norm behind the one chunk of a layer (TabNet's for small batches) is not behind that layer, and is not folded.
What is spread together with another tensor hangs on that tensor, and so do the weights that nothing else reads (a
distribution's scale, of which the most likely action takes no part).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from idp_deploy.capturing.functional import source_of

aten = torch.ops.aten
_SPLITS = (
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
)
_JOINS = (aten.cat.default, aten.concat.default, aten.concatenate.default)


def take_wholes(graph: fx.Graph, written: set[fx.Node]) -> None:
    """Take the whole for its only part, in place; `written` are the nodes into whose memory something is written.

    A part is a view of its whole, and so written with it; what is joined is a copy, and stays one where either is.
    """
    for node in list(graph.nodes):
        if node.target in _SPLITS:
            _replace(node, _split)
        elif node.target in _JOINS and written.isdisjoint((node, *map(source_of, node.all_input_nodes))):
            _replace(node, _joined)
        elif node.target is aten.broadcast_tensors.default and not written:
            _replace(node, _spread)
    graph.eliminate_dead_code()


def _split(node: fx.Node) -> list[Any] | None:
    return [node.args[0]] if len(node.meta["val"]) == 1 else None


def _joined(node: fx.Node) -> Any:
    parts: Any = node.args[0]
    alike = len(parts) == 1 and parts[0].meta["val"].dtype == node.meta["val"].dtype
    return parts[0] if alike else None


def _spread(node: fx.Node) -> list[Any] | None:
    parts: Any = node.args[0]
    shape = node.meta["val"][0].shape
    if not all(isinstance(extent, int) for extent in shape):
        return [part if _is(part, shape) else None for part in parts]
    return [part if _is(part, shape) else _expanded(node, place, part, shape) for place, part in enumerate(parts)]


def _is(part: fx.Node, shape: torch.Size) -> bool:
    own = part.meta["val"].shape
    return len(own) == len(shape) and all(str(one) == str(other) for one, other in zip(own, shape, strict=True))


def _expanded(node: fx.Node, place: int, part: fx.Node, shape: torch.Size) -> fx.Node:
    with node.graph.inserting_before(node):
        found = node.graph.call_function(aten.expand.default, (part, list(shape)))
    found.meta = {**{k: v for k, v in node.meta.items() if k != "val"}, "val": node.meta["val"][place]}
    return found


def _replace(node: fx.Node, row: Callable[[fx.Node], Any]) -> None:
    found = row(node)
    if isinstance(found, fx.Node):
        node.replace_all_uses_with(found)
    elif found is not None:
        for user in list(node.users):
            at: Any = user.args[1] if user.target is operator.getitem else None
            if at is not None and found[at] is not None:
                user.replace_all_uses_with(found[at])
