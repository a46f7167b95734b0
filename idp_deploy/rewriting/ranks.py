"""More dimensions than a format has, where they last for a few steps only.

An attention over windows writes `reshape(b, windows, tokens, 3, heads, width).permute(3, …).unbind(0)`: six dimensions,
of which the first is taken apart at once. Windows in a film are eight dimensions between two reshapes, or around a
linear layer.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from idp_deploy.rewriting.spelling import replace

aten = torch.ops.aten

_RESHAPED = {aten.reshape.default, aten.view.default, aten.unflatten.int}
_FLATTENED = {aten.reshape.default, aten.view.default, aten.flatten.using_ints}
_ORDERED = {aten.permute.default, aten.transpose.int, aten.movedim.int, aten.contiguous.default, aten.clone.default}


def in_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, most: int) -> Tensor | None:
    """A linear layer of a tensor of more than `most` dimensions, by one of two."""
    if x.dim() <= most:
        return None
    return linear(x.flatten(0, -2), weight, bias).reshape(*x.shape[:-1], weight.shape[0])


def pick_before_ordering(module: fx.GraphModule, most: int) -> None:
    """Take a dimension of a tensor of more than `most` apart before it is one of that many, in place."""
    for node in list(module.graph.nodes):
        if node.target in (aten.unbind.int, aten.select.int):
            _pick_before(node, most)
    module.graph.eliminate_dead_code()


def order_by_parts(module: fx.GraphModule, most: int) -> None:
    """Order a tensor of more than `most` dimensions between two reshapes by swaps of neighbours, in place."""
    for node in list(module.graph.nodes):
        if node.target not in _FLATTENED or (found := _many(node, most)) is None:
            continue
        reshaped, order = found
        shape, result = list(reshaped.meta["val"].shape), node.meta["val"].shape
        node.args, node.kwargs = (reshaped.args[0], result), {}
        replace(module, node, lambda x, after, order=order, shape=shape: _moved(x, shape, order).reshape(after))
    module.graph.eliminate_dead_code()
    module.recompile()


def _moved(x: Tensor, shape: list[int], order: list[int]) -> Tensor:
    """`x.reshape(shape).permute(order)` as entries in a row, by tensors of four dimensions.

    >>> x = torch.arange(24)
    >>> torch.equal(_moved(x, [2, 3, 4], [2, 1, 0]).flatten(), x.reshape(2, 3, 4).permute(2, 1, 0).flatten())
    True
    """
    now = list(range(len(shape)))
    for place, dim in enumerate(order):
        at = now.index(dim)
        end = at + 1
        while end < len(now) and now[end] == order[place + end - at]:  # what goes along
            end += 1
        if at > place:
            cuts = (now[:place], now[place:at], now[at:end], now[end:])
            x = x.reshape([math.prod(shape[i] for i in part) for part in cuts]).transpose(1, 2)
            now = [*cuts[0], *cuts[2], *cuts[1], *cuts[3]]
    return x


def _pick_before(node: fx.Node, most: int) -> None:
    if (found := _many(node, most)) is None:
        return
    reshaped, order = found
    shape = list(reshaped.meta["val"].shape)
    axis = order[node.args[1] if len(node.args) > 1 else 0]  # type: ignore[index]
    left = [extent for i, extent in enumerate(shape) if i != axis]
    others = [place - (place > axis) for place in order if place != axis]
    parts = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
    with node.graph.inserting_before(node):
        apart = node.graph.call_function(aten.reshape.default, (reshaped.args[0], parts))
        for user, index in _picks(node):
            one = node.graph.call_function(aten.select.int, (apart, 1, index))
            spread = node.graph.call_function(aten.reshape.default, (one, left))
            result = node.graph.call_function(aten.permute.default, (spread, others))
            result.meta = dict(user.meta)
            user.replace_all_uses_with(result)


def _picks(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """The results that are used, and which one of the dimension each is."""
    if node.target is aten.select.int:
        yield node, node.args[2]  # type: ignore[misc]
        return
    for user in list(node.users):
        assert user.target is operator.getitem
        yield user, user.args[1]  # type: ignore[misc]


def _many(node: fx.Node, most: int) -> tuple[fx.Node, list[int]] | None:
    """The reshape to more than `most` dimensions that `node` reads, and which of them stands where by then."""
    value, steps = node.args[0], list[fx.Node]()
    while isinstance(value, fx.Node) and value.target in _ORDERED:
        steps.insert(0, value)
        value = value.args[0]
    if not isinstance(value, fx.Node) or value.target not in _RESHAPED:
        return None
    shape = value.meta["val"].shape
    if len(shape) <= most or not all(isinstance(extent, int) for extent in shape):
        return None
    named = torch.empty([*range(2, 2 + len(shape))], device="meta")  # every extent names its dimension
    for step in steps:
        named = step.target(named, *step.args[1:], **step.kwargs)  # type: ignore[operator]
    return value, [extent - 2 for extent in named.shape]
