"""masked: entries read where a mask is true, worked on, and put back or added up, computed of all and chosen.

How many entries `x[mask]` has the input alone tells, and most files have fixed shapes. What is computed of them entry
by entry, or row by row, can be computed of all: what was not asked for is left out by a choice.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from idp_deploy.capturing.functional import plain_form, source_of, written_operands
from idp_deploy.rewriting.spelling import replace

aten = torch.ops.aten
_PUT = {aten.index_put.default, aten.index_put_.default}
_ADD = {aten.index_add.default, aten.index_add_.default}
_PLACES = {aten.where.default, aten.nonzero_numpy.default}  # of what a mask keeps, one tensor an axis
_SUMS = {aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim}
_SAME_PLACE = {aten.clone, aten.detach, aten.alias, aten.contiguous, aten.to, aten._to_copy}
_OF_ROWS = {aten.linear.default, aten.softmax.int, aten.layer_norm.default}
_AXES = {aten.unsqueeze.default, aten.select.int, aten.slice.Tensor}


def choose_for_masks(module: fx.GraphModule) -> None:
    """`x[mask] = f(y[mask])` and `f(y[mask]).sum()`, in place, as a choice among all entries.

    The same of places of a mask: `rows, which = torch.where(mask)`, and `x.index_add(0, rows, f(y[rows]))`.
    """
    for node in list(module.graph.nodes):
        if node.target in _PUT:
            _choose(module, node, node.args[1], node.args[2], adding=len(node.args) > 3 and bool(node.args[3]))
        elif node.target in _ADD and not node.args[1] and node.kwargs.get("alpha", 1) == 1:
            _choose(module, node, [node.args[2]], node.args[3], adding=True)
        elif node.target in _SUMS:
            _add_up(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def read_by_masks(graph: fx.Graph) -> None:
    """`masked_select` of a mask of the same shape as `x[mask]`, in place, which torch.onnx knows."""
    for node in graph.nodes:
        if node.target is aten.masked_select.default and (found := _read(node)) is not None:
            node.target, node.args = aten.index.Tensor, (found[0], [node.args[1]])


@dataclass
class _Kept:
    """What is computed of the entries that one mask keeps: calls in order, and what they read of all entries."""

    mask: fx.Node
    calls: list[fx.Node] = field(default_factory=list)
    reads: list[fx.Node] = field(default_factory=list)
    given: list[fx.Node] = field(default_factory=list)

    def holds(self, value: fx.Node) -> bool:
        """Whether `value` is made of such entries alone, each by itself, or a row by itself."""
        if value in self.reads or value in self.calls:
            return True
        if (found := _read(value)) is not None:
            source, mask, axes = found
            same = _same(mask, self.mask) and _shape(source)[: len(axes)] == [_shape(mask)[axis] for axis in axes]
            self.reads += [value] if same else []
            self.given += [source] if same else []
            return same
        if not _is_kept(value) or not self._is_by_entry(value):
            return False
        operands = [operand for operand in value.all_input_nodes if _is_kept(operand)]
        rank = max((_rank(operand) for operand in operands), default=0)
        others = [operand for operand in value.all_input_nodes if operand not in operands]
        if not operands or any(_rank(operand) != rank for operand in operands):
            return False
        pointwise = value.target not in _OF_ROWS
        if not pointwise and operands != [value.args[0]]:
            return False
        if any(not isinstance(o.meta.get("val"), Tensor) or (pointwise and _rank(o) >= rank) for o in others):
            return False
        if not all(self.holds(operand) for operand in operands):
            return False
        self.given += others
        self.calls.append(value)
        return True

    def _is_by_entry(self, value: fx.Node) -> bool:
        target, rank = value.target, _rank(value)
        if not isinstance(target, torch._ops.OpOverload) or _plain(target) is None:
            return False
        if target.overloadpacket in _SAME_PLACE:
            return True
        if target in _AXES:
            return _from_the_end(value) is not None
        if target in _OF_ROWS:
            axes: Any = value.args[1]
            named = (target is aten.softmax.int and axes not in (-1, rank - 1)) or rank < 2
            return not named and (target is not aten.layer_norm.default or len(axes) < rank)
        return torch.Tag.pointwise in _plain(target).tags

    def of_all(self, value: Any, known: Mapping[fx.Node, Any]) -> Any:
        """`value`, computed of all entries by what `known` says of those that are given."""
        made = dict(known)
        for read in self.reads:
            source, mask, axes = _read(read)  # type: ignore[misc]
            held, rank = known[source], _rank(mask)
            extents = iter(held.shape[: len(axes)])  # 1 on an axis of the mask that was not read by
            spread = [next(extents) if axis in axes else 1 for axis in range(rank)]
            made[read] = held if len(axes) == rank else held.reshape([*spread, *held.shape[len(axes) :]])
        for call in self.calls:
            args, kwargs = fx.node.map_arg((call.args, call.kwargs), made.__getitem__)
            if call.target in _AXES:
                args = (args[0], _from_the_end(call), *args[2:])
            elif call.target is aten.softmax.int:
                args = (args[0], -1, *args[2:])
            made[call] = _plain(call.target)(*args, **kwargs)
        return made[value] if isinstance(value, fx.Node) else value


def _choose(module: fx.GraphModule, node: fx.Node, indices: Any, values: Any, *, adding: bool) -> None:
    x: Any = node.args[0]
    if (found := _selection(indices)) is None or not isinstance(values, fx.Node) or not _is_kept(values):
        return
    mask, axes = found
    kept, shape = _Kept(mask), _shape(mask)
    missing = [axis for axis in range(len(shape)) if axis not in axes]
    if _shape(x)[: len(axes)] != [shape[axis] for axis in axes] or _rank(values) != _rank(x) - len(axes) + 1:
        return
    if (adding or missing) and not x.meta["val"].is_floating_point():
        return
    if not kept.holds(values) or _written(kept.given, (*kept.reads, *kept.calls), node):
        return

    def chosen(x: Tensor, mask: Tensor, given: list[Tensor]) -> Tensor:
        found = kept.of_all(values, dict(zip(kept.given, given, strict=True))).to(x.dtype)
        spread = _spread(mask, found.dim())
        if adding or missing:
            found = torch.where(spread, found, torch.zeros_like(found))
            found = found.sum(missing) if missing else found
        if adding:
            return x + found
        if missing:
            spread = _spread(mask.to(torch.int32).sum(missing, dtype=torch.int32) > 0, x.dim())
        return torch.where(spread, found.expand(x.shape), x)

    def written(x: Tensor, mask: Tensor, given: list[Tensor]) -> Tensor:
        return x.copy_(chosen(x, mask, given))

    kept.given = list(dict.fromkeys(kept.given))
    places = [place for read in (*kept.reads, node) for place in read.all_input_nodes if _is_kept(place)]
    in_place = node.target._schema.is_mutable  # type: ignore[union-attr]
    node.args, node.kwargs = (x, mask, kept.given), {}
    replace(module, node, written if in_place else chosen)
    _forget_sizes(module.graph, (*places, *kept.reads, *kept.calls))


def _add_up(module: fx.GraphModule, node: fx.Node) -> None:
    """The sum, or the mean, of what is left of a mask: of all of it, or along its one axis."""
    values, *where = node.args
    over_all = node.target in (aten.sum.default, aten.mean.default)
    if not isinstance(values, fx.Node) or not _is_kept(values) or node.kwargs:
        return
    if not over_all and (len(where) != 1 or where[0] not in ([0], [-_rank(values)])):
        return
    if (mask := next((found[1] for read in _reads_of(values) if (found := _read(read))), None)) is None:
        return
    kept, mean = _Kept(mask), node.target in (aten.mean.default, aten.mean.dim)
    if not values.meta["val"].is_floating_point() or not kept.holds(values):
        return
    if _written(kept.given, (*kept.reads, *kept.calls), node):
        return
    axes = None if over_all else list(range(_rank(mask)))

    def total(mask: Tensor, given: list[Tensor]) -> Tensor:
        found = kept.of_all(values, dict(zip(kept.given, given, strict=True)))
        found = torch.where(_spread(mask, found.dim()), found, torch.zeros_like(found))
        result = found.sum() if axes is None else found.sum(axes)
        if not mean:
            return result
        each = found.numel() // mask.numel() if over_all else 1
        return result / (mask.to(torch.int32).sum(dtype=torch.int32) * each).to(found.dtype)

    kept.given = list(dict.fromkeys(kept.given))
    node.args, node.kwargs = (mask, kept.given), {}
    replace(module, node, total)
    places = [place for read in kept.reads for place in read.all_input_nodes if _is_kept(place)]
    _forget_sizes(module.graph, (*places, *kept.reads, *kept.calls))


def _forget_sizes(graph: fx.Graph, nodes: Iterable[fx.Node]) -> None:
    """Take out the checks of how many entries there are, as far as nobody else asks."""
    nodes = list(dict.fromkeys(nodes))
    sources = [source for node in nodes for source in node.all_input_nodes if _is_kept(source)]
    for node in (*nodes, *sources):
        for sized in list(node.users):
            for checked in [each for user in (sized, *sized.users) for each in (user, *user.users)]:
                if checked.target is aten._assert_scalar.default and not checked._erased:
                    graph.erase_node(checked)
    graph.eliminate_dead_code()
    for node in reversed(nodes):
        if not node._erased and not node.users:  # one in place, which is no dead code, and what it alone read
            graph.erase_node(node)


def _plain(target: Any) -> Any:
    """The operator itself, or of one in place its plain form; None where there is none."""
    return plain_form(target) if target._schema.is_mutable else target


def _read(value: fx.Node) -> tuple[fx.Node, fx.Node, tuple[int, ...]] | None:
    """(what `value` reads, the mask that says which entries, the axes of the mask that those of the former are)."""
    source: Any = value.args[0] if value.args else None
    if value.target is aten.masked_select.default:
        mask: Any = value.args[1]
        return (source, mask, tuple(range(_rank(mask)))) if _shape(source) == _shape(mask) else None
    found = _selection(value.args[1]) if value.target is aten.index.Tensor else None
    return None if found is None else (source, *found)


def _selection(indices: Any) -> tuple[fx.Node, tuple[int, ...]] | None:
    """(mask, axes) of `[mask]`, or of places on some of its axes, in their order."""
    if len(indices) == 1 and _is_mask(indices[0]):
        return indices[0], tuple(range(_rank(indices[0])))
    found = [_place(index) if isinstance(index, fx.Node) else None for index in indices]
    masks, axes = {each[0] for each in found if each}, tuple(each[1] for each in found if each)
    whole = len(axes) == len(indices) and len(masks) == 1 and all(a < b for a, b in itertools.pairwise(axes))
    return (masks.pop(), axes) if whole else None


def _place(index: fx.Node) -> tuple[fx.Node, int] | None:
    """(mask, axis) of the places on one axis of what a mask keeps."""
    source, axis = index, 0
    if index.target is operator.getitem:
        source, axis = index.args  # type: ignore[assignment]
        if source.target is aten.unbind.int and source.args[1:] in ((1,), (-1,)):
            source = source.args[0]  # type: ignore[assignment]
        elif source.target not in _PLACES:
            return None
    elif index.target is aten.select.int and index.args[1] in (1, -1):
        source, axis = index.args[0], index.args[2]  # type: ignore[assignment]
    elif index.target is aten.squeeze.dim and index.args[1] in (1, -1):
        source = index.args[0]  # type: ignore[assignment]
    whole = source.target in _PLACES or source.target is aten.nonzero.default
    mask = source.args[0] if whole else None
    single = index.target is not aten.squeeze.dim or (mask is not None and _rank(mask) == 1)
    return (mask, axis) if mask is not None and _is_mask(mask) and single else None  # type: ignore[return-value]


def _reads_of(value: fx.Node) -> Iterator[fx.Node]:
    if _read(value) is not None:
        yield value
        return
    for operand in value.all_input_nodes:
        if _is_kept(operand):
            yield from _reads_of(operand)


def _is_mask(node: Any) -> bool:
    return isinstance(node, fx.Node) and getattr(node.meta.get("val"), "dtype", None) == torch.bool


def _is_kept(node: fx.Node) -> bool:
    """Whether the first extent of a tensor is a number that values tell."""
    value = node.meta.get("val")
    extent = value.shape[0] if isinstance(value, Tensor) and value.dim() else 0
    return isinstance(extent, torch.SymInt) and bool(free_unbacked_symbols(extent))


def _from_the_end(node: fx.Node) -> int | None:
    """The axis that a call names, counted from the end, where it is not the one of the entries."""
    axis: Any = node.args[1] if len(node.args) > 1 else 0
    rank = _rank(node) if node.target is aten.unsqueeze.default else _rank(node.args[0])
    axis = axis % rank
    return axis - rank if axis else None


def _same(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes are one, or the same call of the same nodes with nothing written to in between."""
    if one is other:
        return True
    if not isinstance(one.target, torch._ops.OpOverload) or one.target != other.target or one.kwargs != other.kwargs:
        return False
    if one.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in one.target.tags:
        return False
    mine, its = (pytree.tree_leaves(node.args) for node in (one, other))
    alike = len(mine) == len(its) and all(
        _same(a, b) if isinstance(a, fx.Node) and isinstance(b, fx.Node) else type(a) is type(b) and a == b
        for a, b in zip(mine, its, strict=True)
    )
    return alike and not _written(one.all_input_nodes, (one, other), None)


def _written(given: Iterable[fx.Node], nodes: Iterable[fx.Node], last: fx.Node | None) -> bool:
    """Whether something of `given` is written to between the first of `nodes` and the last of them, or `last`."""
    sources = {source_of(node) for node in given}
    wanted, ends, open_ = set(nodes), {last} if last is not None else set(), False
    left = len(wanted)
    for node in next(iter(wanted)).graph.nodes:
        if node in ends:
            return False
        if node in wanted:
            open_, left = True, left - 1
            if not left and last is None:
                return False
        elif open_ and any(source_of(operand) in sources for operand in written_operands(node)):
            return True
    return False


def _shape(node: Any) -> list[Any]:
    return list(node.meta["val"].shape)


def _rank(node: Any) -> int:
    return int(node.meta["val"].dim())


def _spread(mask: Tensor, rank: int) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (rank - mask.dim()))
