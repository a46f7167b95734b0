"""apart: keep constant factors in front of a layer, and behind it, out of its weight, and copies out of other orders.

The converter computes W(γx + β) + b as (Wγ)x + (b + Wβ), and γ(Wx + b) as (γW)x + γb: a layer norm before a linear
layer, an image that forward normalises, a layer scale. The file would then hold a weight that the model does not have,
which nobody could prove and which int8 would round anew. XLA's optimization barrier, which the converter drops at its
end, keeps the two apart.

A kernel that is computed is taken for an image by the converter, which turns its axes as it turns those of images; as
one line behind a barrier it is none.

Of copies along an axis whose axes then change places, (2, 1, 4) → (2, 3, 4) → (4, 3, 2), the converter drops the change
and copies what was there before it. The same barrier stands between.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_LAYERS = {
    aten.linear, aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d,
    aten.conv_transpose3d, aten.matmul, aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.einsum,
}  # fmt: skip
_KERNELS = {aten.conv1d, aten.conv2d, aten.conv3d}
_NORMS = {aten.layer_norm, aten.group_norm, aten.batch_norm, aten.instance_norm, aten.rms_norm}
_SUMS, _PRODUCTS = {aten.add, aten.sub, aten.rsub}, {aten.mul, aten.div}
_SUMS_AND_PRODUCTS = _SUMS | _PRODUCTS
# how many of the first arguments an operator multiplies by a constant of its own
_SCALE_INSIDE = {aten.batch_norm: 1, aten.scaled_dot_product_attention: 3}
_VIEWS = {
    aten.view, aten.reshape, aten.flatten, aten.unflatten, aten.permute, aten.transpose, aten.t, aten.squeeze,
    aten.unsqueeze, aten.contiguous, aten.clone, aten.dropout, aten.expand, aten.slice, aten.select, aten.chunk,
    aten.split, aten.split_with_sizes, aten.unbind, aten.to, aten._to_copy, aten.type_as, aten.alias, aten.detach,
}  # fmt: skip
# operators that may give what they took, which the converter then takes out: parts put together again, borders of 0
_GIVING_BACK = {
    aten.cat, aten.stack, aten.index, aten.index_select, aten.pad, aten.constant_pad_nd, aten.roll, aten.flip,
    aten.movedim, aten.swapaxes, aten.cumsum, aten.cumprod, aten.where, aten.masked_fill, aten.tril, aten.triu,
    aten.slice_scatter, aten.select_scatter, aten.neg, aten.positive, aten.pow, aten.repeat,
}  # fmt: skip

_ORDERING = {
    aten.permute, aten.transpose, aten.t, aten.numpy_T, aten.mT, aten.movedim, aten.moveaxis, aten.swapaxes,
    aten.swapdims,
}  # fmt: skip
_STACKS = {aten.matmul, aten.bmm}
_PRODUCTS_OF_TWO = {*_STACKS, aten.mm}
_COPYING = {aten.expand, aten.expand_as, aten.broadcast_to}
_SAME = {aten.contiguous, aten.clone, aten.dropout, aten.alias, aten.detach, aten.to, aten._to_copy}
_FILLED = {aten.zeros_like, aten.ones_like, aten.full_like}


def keep_apart(module: fx.GraphModule) -> None:
    """Put a barrier, in place, between layers and the sums and products with constants next to them."""
    fed, barrier = _fed(module.graph), _barrier()
    for node in list(module.graph.nodes):
        if _kind(node) in _KERNELS and node.args[1] in fed:
            fed |= _as_a_line(module, node, node.args[1], barrier)
        in_front = [_behind_views(x, fed) for x in node.all_input_nodes] if _kind(node) in _LAYERS else []
        for source in in_front:
            if source in fed and (_kind(source) in _NORMS or _scaled(source, fed) is not None):
                fed |= _separate(module, source, tuple(source.users), barrier)
        scaled = node.args[: _SCALE_INSIDE.get(_kind(node), 0)] or (_scaled(node, fed, _PRODUCTS),)
        for operand in scaled:
            if isinstance(operand, fx.Node) and _kind(_layer_of(operand, fed)) in _LAYERS:
                fed |= _separate(module, operand, (node,), barrier)
        if _one_product(node) and node in fed:
            fed |= _separate(module, node, tuple(node.users), barrier)
        if _kind(node) in _PRODUCTS_OF_TWO and fed.issuperset(node.args[:2]) and _single(node):
            fed |= _separate(module, node.args[0], (node,), barrier)
        if _kind(node) in _ORDERING and (spread := _spread(node.all_input_nodes[0], fed)) is not None:
            fed |= _separate(module, spread, tuple(spread.users), barrier)
    module.recompile()


def _as_a_line(module: fx.GraphModule, layer: fx.Node, kernel: fx.Node, barrier: Any) -> set[fx.Node]:
    """Give `layer` its kernel by way of one line."""
    steps = [kernel]
    with module.graph.inserting_before(layer):
        for target, *more in (
            (aten.reshape.default, [-1]),
            (barrier,),
            (aten.reshape.default, [*kernel.meta["val"].shape]),
        ):
            steps.append(module.graph.call_function(target, (steps[-1], *more)))
            steps[-1].meta = {
                **kernel.meta,
                "val": steps[-2].meta["val"].reshape(*more) if more else steps[-2].meta["val"],
            }
    layer.replace_input_with(kernel, steps[-1])
    return set(steps)


def _one_product(node: fx.Node) -> bool:
    """Whether it multiplies two matrices alone, in a stack of one: of such the converter gives the wrong rank."""
    value = node.meta.get("val")
    return _kind(node) in _STACKS and isinstance(value, torch.Tensor) and value.dim() > 2 and _single(node)


def _single(node: fx.Node) -> bool:
    """Whether its result is one matrix: one whose first factor is turned the converter multiplies as it was before."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[:-2].numel() == 1


def _spread(node: fx.Node, fed: set[fx.Node]) -> fx.Node | None:
    """What `node` is a copy of, where that holds entries of a smaller tensor several times.

    A sum with zeros and a product with ones count as such, which the converter makes copies of: here all where only
    constants have the size of the result.
    """
    while _kind(node) in _SAME:
        node = node.all_input_nodes[0]
    if node not in fed or not (_kind(node) in _COPYING or torch.Tag.pointwise in getattr(node.target, "tags", ())):
        return None
    whole = [x for x in node.all_input_nodes if x in fed and _kind(x) not in _FILLED and _size(x) == _size(node)]
    return None if whole else node


def _size(node: fx.Node) -> Any:
    value = node.meta.get("val")
    size = value.numel() if isinstance(value, torch.Tensor) else None
    return size if size is None or isinstance(size, int) else str(size)  # of numbers in inputs none can be compared


def _scaled(node: fx.Node, fed: set[fx.Node], kinds: Collection[Any] = _SUMS_AND_PRODUCTS) -> fx.Node | None:
    """What `node` scales or shifts by a constant, if it does."""
    operands = node.args[:2] if _kind(node) in kinds else ()
    moving = [x for x in operands if isinstance(x, fx.Node) and x in fed]
    return moving[0] if len(operands) == 2 and len(moving) == 1 else None


def _layer_of(node: fx.Node, fed: set[fx.Node]) -> fx.Node:
    """The operator before `node`, but for views and sums with constants."""
    while (node := _behind_views(node, fed)) and (shifted := _scaled(node, fed, _SUMS)) is not None:
        node = shifted
    return node


def _behind_views(node: fx.Node, fed: set[fx.Node]) -> fx.Node:
    """The one thing whose entries `node` holds, perhaps in another order; `node` itself where they are of several."""
    met, origins, pending = {node}, list[fx.Node](), [node]
    while pending:
        step = pending.pop()
        taken: Sequence[Any] = step.all_input_nodes if _kind(step) in _GIVING_BACK else ()
        taken = step.args[:1] if _kind(step) in _VIEWS else taken
        moving = [x for x in taken if isinstance(x, fx.Node) and x in fed]
        if not moving:
            origins.append(step)
        pending += [x for x in moving if x not in met]
        met.update(moving)
    return origins[0] if len(origins) == 1 else node


def _separate(module: fx.GraphModule, source: fx.Node, users: Collection[fx.Node], barrier: Any) -> set[fx.Node]:
    if any(user.target is barrier for user in users) or source not in [x for u in users for x in u.all_input_nodes]:
        return set()  # it is already
    with module.graph.inserting_after(source):
        apart = module.graph.call_function(barrier, (source,))
    apart.meta = dict(source.meta)
    for user in users:
        user.replace_input_with(source, apart)
    return {apart}


def _fed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose value depends on an input."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not fed.isdisjoint(node.all_input_nodes):
            fed.add(node)
    return fed


def _kind(node: fx.Node) -> Any:
    return aten.select if node.target is operator.getitem else getattr(node.target, "overloadpacket", None)


@cache
def _barrier() -> Any:
    """An operator that gives what it takes, lowered to a barrier; it has no layout of its own."""
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
    from litert_torch.backend.lowerings import registry

    library = torch.library.Library("idp_deploy", "FRAGMENT")
    library.define("apart(Tensor x) -> Tensor")
    library.impl("apart", lambda x: x.clone(), "CompositeExplicitAutograd")
    library.impl("apart", torch.empty_like, "Meta")
    _held.append(library)
    made = torch.ops.idp_deploy.apart.default
    registry.lower(made)(lambda context, x: stablehlo.optimization_barrier([x]))
    rewriters.register(made)(lambda node: None)
    return made


_held: list[torch.library.Library] = []  # an operator ends with the library that defined it
