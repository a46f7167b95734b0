"""More dimensions than a format has: every operator that works on some is said in few.

    relu of (2, 2, 3, 4, 2, 2, 8)                       → reshape (192, 8) → relu → reshape back
    sum over axis 1 of (2, 3, 4, 5, 6, 7)               → reshape (2, 3, 840) → sum over 1 → reshape
    permute (0, 3, 1, 4, 2, 5) of (1, 8, 2, 8, 2, 96)   → swaps of neighbours, each of four dimensions

Axes that lie side by side and fare alike are one axis; what is left are reshapes, of which two in a row are one. An
attention over windows of a film has eight dimensions between two reshapes and none of them afterwards.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from idp_deploy.capturing.lifting import attribute
from idp_deploy.rewriting.products import attention
from idp_deploy.rewriting.spelling import replace
from idp_deploy.rewriting.spreading import SPREADING, spread_out

aten = torch.ops.aten

_RESHAPES = {
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.unflatten.int, aten.flatten.using_ints,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.view_as.default,
    aten.reshape_as.default,
}  # fmt: skip
_COPIES = {aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.dropout.default}
_ORDERED = {
    aten.permute.default, aten.transpose.int, aten.movedim.int, aten.movedim.intlist, aten.swapaxes.default,
    aten.swapdims.default, aten.moveaxis.int, aten.moveaxis.intlist,
}  # fmt: skip
_PRODUCTS = {aten.matmul.default, aten.linear.default}
# operator → which of its arguments are axes: an axis, or a list of them
_ALONG: dict[Any, int] = {
    aten.softmax.int: 1, aten.log_softmax.int: 1, aten._softmax.default: 1, aten.cumsum.default: 1, aten.select.int: 1,
    aten.slice.Tensor: 1, aten.narrow.default: 1, aten.unbind.int: 1, aten.split.Tensor: 2, aten.chunk.default: 2,
    aten.split_with_sizes.default: 2, aten.split.sizes: 2, aten.index_select.default: 1, aten.argmax.default: 1,
    aten.argmin.default: 1, aten.max.dim: 1, aten.min.dim: 1, aten.mean.dim: 1, aten.sum.dim_IntList: 1,
    aten.amax.default: 1, aten.amin.default: 1, aten.flip.default: 1, aten.roll.default: 2, aten.cat.default: 1,
    aten.stack.default: 1, aten.var.correction: 1, aten.std.correction: 1, aten.logsumexp.default: 1,
}  # fmt: skip
_WHOLE = {aten.mean.default, aten.sum.default, aten.max.default, aten.min.default}
_CASTS = {aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default, aten.type_as.default}
_SEVERAL = {aten.cat.default, aten.stack.default}  # they read a list


def within(module: fx.GraphModule, most: int) -> None:
    """Leave no result of more than `most` dimensions in place, but inputs, outputs and what has no such form."""
    changed = False
    for node in list(module.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif node.op == "call_function" and max(_ranks(node), default=0) > most:
            changed = replace(module, node, partial(_said, node, most)) is not None or changed
    if changed:
        _join_reshapes(module, most)
    module.graph.lint()
    module.recompile()


def pick_before_ordering(module: fx.GraphModule, most: int) -> None:
    """Take a dimension of a tensor of more than `most` apart before it is one of that many, in place."""
    for node in list(module.graph.nodes):
        if node.target in (aten.unbind.int, aten.select.int):
            _pick_before(node, most)
    module.graph.eliminate_dead_code()


def _ranks(node: fx.Node) -> list[int]:
    values = pytree.tree_leaves([node.meta.get("val"), [source.meta.get("val") for source in node.all_input_nodes]])
    return [value.dim() for value in values if isinstance(value, Tensor)]


def _said(node: fx.Node, most: int, *args: Any, **kwargs: Any) -> Any:
    """What `node` computes by tensors of `most` dimensions; None where that is not known."""
    target, result = node.target, node.meta["val"]
    if target in _RESHAPES or target in _COPIES:
        return args[0].reshape(result.shape)
    if target in _ORDERED:
        named = torch.empty([*range(2, 2 + args[0].dim())], device="meta")  # every extent names its axis
        order = [extent - 2 for extent in target(named, *args[1:], **kwargs).shape]  # type: ignore[operator]
        return _ordered(args[0], order, most).reshape(result.shape)
    if target in SPREADING:
        return spread_out(args[0], result.shape)
    if target in _PRODUCTS:
        return _product(target, most, *args, **kwargs)
    if target in _ALONG:
        return _along(target, most, result, *args, **kwargs)
    if target in _WHOLE:
        return target(args[0].flatten(), *args[1:], **kwargs)
    if target is aten.scaled_dot_product_attention.default:
        return attention(*args, **kwargs)
    if target is aten.layer_norm.default:
        x, shape, *others = args
        return target(x.reshape(-1, *shape), shape, *others, **kwargs).reshape(result.shape)
    if target is aten.embedding.default:
        return target(args[0], args[1].flatten(), *args[2:], **kwargs).reshape(result.shape)
    if isinstance(result, Tensor) and (target in _CASTS or torch.Tag.pointwise in getattr(target, "tags", ())):
        return _pointwise(target, most, result, args, kwargs)
    return None


def _pointwise(target: Any, most: int, result: Tensor, args: Any, kwargs: Any) -> Tensor | None:
    leaves, nest = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    few, shape = _few(tensors, result.shape)
    if len(shape) > most:
        few = [spread_out(x, result.shape).flatten(0, -2) if x.numel() > 1 else x.flatten() for x in tensors]
    given = iter(few)
    leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(leaves, nest)
    made: Tensor = target(*args, **kwargs)
    return made.reshape(result.shape)


def _few(tensors: Sequence[Tensor], shape: Sequence[int]) -> tuple[list[Tensor], list[int]]:
    """Tensors that are spread to `shape`, by as few axes as they need, the last one apart; and the shape by these."""
    padded = [[1] * (len(shape) - x.dim()) + list(x.shape) for x in tensors]
    fares = [tuple(extents[i] == shape[i] for extents in padded) for i in range(len(shape))]
    groups = _groups(shape, fares, {len(shape) - 1})
    few = [
        x.reshape([math.prod(extents[i] for i in group) for group in groups])
        for x, extents in zip(tensors, padded, strict=True)
    ]
    return few, [math.prod(shape[i] for i in group) for group in groups]


def _groups(shape: Sequence[int], fares: Sequence[Any], apart: Collection[int]) -> list[list[int]]:
    """Axes side by side that fare alike, those of one entry with any; an axis of `apart` with none.

    >>> _groups([2, 3, 1, 4, 5], "aabba", {4})
    [[0, 1, 2], [3], [4]]
    """
    groups: list[list[int]] = []
    fare: Any = None  # of the last group; None before an axis of more than one entry
    for axis, extent in enumerate(shape):
        if (
            groups
            and axis not in apart
            and groups[-1][-1] not in apart
            and (extent == 1 or fare in (None, fares[axis]))
        ):
            groups[-1].append(axis)
        else:
            groups.append([axis])
            fare = None
        fare = fares[axis] if extent != 1 else fare
    return groups


def _along(target: Any, most: int, result: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator along some axes: the others are joined where they lie side by side."""
    several = target in _SEVERAL
    place = _ALONG[target]
    first = args[0][0] if several else args[0]
    given = args[place] if len(args) > place else kwargs.get("dim", 0)
    if given is None:
        return None
    rank = first.dim() + (target is aten.stack.default)
    axes = [axis % rank for axis in ([given] if isinstance(given, int) else given)]
    shape = list(first.shape)
    if target is aten.stack.default:
        shape.insert(axes[0], 1)
        target, args = aten.cat.default, ([x.unsqueeze(axes[0]) for x in args[0]], *args[1:])
    fares = [axis in axes for axis in range(rank)]
    apart = {axis for axis in range(rank) if fares[axis]}
    groups = _groups(shape, fares, apart)
    if len(groups) > most:
        return None
    now = [next(i for i, group in enumerate(groups) if axis in group) for axis in axes]

    def few(x: Tensor) -> Tensor:
        return x.reshape([math.prod(x.shape[i] for i in group) for group in groups])

    source = [few(x) for x in args[0]] if several else few(args[0])
    others = list(args[1:])
    if len(args) > place:
        others[place - 1] = now[0] if isinstance(given, int) else now
    elif "dim" in kwargs:
        kwargs = kwargs | {"dim": now[0] if isinstance(given, int) else now}
    elif now != [0]:
        return None
    made = target(source, *others, **kwargs)
    wanted = pytree.tree_leaves(result)
    whole = [x.reshape(like.shape) for x, like in zip(pytree.tree_leaves(made), wanted, strict=True)]
    return whole[0] if isinstance(result, Tensor) else whole


def _product(target: Any, most: int, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Rows times a matrix, or a stack of matrices times another one."""
    if target is aten.linear.default or y.dim() == 2:
        rows = x.reshape(-1, x.shape[-1])
        made = torch.nn.functional.linear(rows, y, bias) if target is aten.linear.default else rows @ y
        return made.reshape(*x.shape[:-1], made.shape[-1])
    if x.dim() < 2 or y.dim() < 2:
        return None
    stack = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    bare = [torch.empty(t.shape[:-2], device="meta") for t in (x, y)]
    joined, shape = _few(bare, stack)
    if len(shape) + 2 > most:
        x, y = x.expand(*stack, *x.shape[-2:]), y.expand(*stack, *y.shape[-2:])
        return (x.flatten(0, -3) @ y.flatten(0, -3)).reshape(*stack, x.shape[-2], y.shape[-1])
    few = [t.reshape(*like.shape, *t.shape[-2:]) for t, like in zip((x, y), joined, strict=True)]
    return (few[0] @ few[1]).reshape(*stack, x.shape[-2], y.shape[-1])


def _ordered(x: Tensor, order: list[int], most: int) -> Tensor:
    """`x.permute(order)` as entries in a row: at once where what goes along together leaves few axes, else by swaps."""
    runs: list[list[int]] = []
    for axis in (axis for axis in order if x.shape[axis] != 1):
        if runs and all(x.shape[between] == 1 for between in range(runs[-1][-1] + 1, axis)) and axis > runs[-1][-1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) > most:
        return _moved(x, list(x.shape), order)
    places = sorted(range(len(runs)), key=lambda i: runs[i][0])
    source = x.reshape([math.prod(x.shape[axis] for axis in runs[i]) for i in places])
    return source.permute([places.index(i) for i in range(len(runs))]) if len(runs) > 1 else source


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


def _join_reshapes(module: fx.GraphModule, most: int) -> None:
    """One reshape in the place of several, none where the shape is the one from before; constants as they are seen."""
    for node in list(module.graph.nodes):
        if node.target not in _RESHAPES:
            continue
        source = node.args[0]
        while isinstance(source, fx.Node) and source.target in _RESHAPES:
            source = source.args[0]
        value = attribute(module, source.target) if source.op == "get_attr" else source.meta["val"]
        shape = list(node.meta["val"].shape)
        if list(value.shape) == shape:
            node.replace_all_uses_with(source)
        elif source.op == "get_attr" and value.dim() > most:
            module.register_buffer(node.name, value.detach().reshape(shape))
            node.op, node.target, node.args, node.kwargs = "get_attr", node.name, (), {}
        elif source is not node.args[0]:
            node.target, node.args, node.kwargs = aten.reshape.default, (source, shape), {}
    module.graph.eliminate_dead_code()


def _pick_before(node: fx.Node, most: int) -> None:
    if (found := _many(node, most)) is None:
        return
    reshaped, order = found
    shape = list(reshaped.meta["val"].shape)
    if len(shape) - 1 > most:
        return
    axis = order[node.args[1] if len(node.args) > 1 else 0]  # type: ignore[index]
    left = [extent for i, extent in enumerate(shape) if i != axis]
    others = [place - (place > axis) for place in order if place != axis]
    parts = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
    with node.graph.inserting_before(node):
        apart = _call(node, aten.reshape.default, reshaped.args[0], parts)
        for user, index in _picks(node):
            spread = _call(node, aten.reshape.default, _call(node, aten.select.int, apart, 1, index), left)
            result = _call(node, aten.permute.default, spread, others)
            result.meta = dict(user.meta)
            user.replace_all_uses_with(result)


def _call(node: fx.Node, target: Any, source: Any, *args: Any) -> fx.Node:
    made = node.graph.call_function(target, (source, *args))
    made.meta["val"] = target(source.meta["val"], *args)
    return made


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
    while isinstance(value, fx.Node) and value.target in _ORDERED | _COPIES:
        steps.insert(0, value)
        value = value.args[0]
    if not isinstance(value, fx.Node) or value.target not in _RESHAPES:
        return None
    shape = value.meta["val"].shape
    if len(shape) <= most or not all(isinstance(extent, int) for extent in shape):
        return None
    named = torch.empty([*range(2, 2 + len(shape))], device="meta")  # every extent names its dimension
    for step in steps:
        named = step.target(named, *step.args[1:], **step.kwargs)  # type: ignore[operator]
    return value, [extent - 2 for extent in named.shape]
