"""A trace without writes into what others see, and without what `torch.vmap` leaves: each value is made once.

Converters lay values out anew, and a view of the old layout is none of the new one: what is written through it is lost,
and what was written before is not seen. The numbers stay the same.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
_RESHAPES = {
    aten.view, aten.reshape, aten.flatten, aten.unflatten, aten.view_as, aten.reshape_as, aten.unfold, aten.as_strided,
}  # fmt: skip
_SLICES = {aten.select, aten.unbind}


def functional(program: ExportedProgram, *, free: bool = False) -> ExportedProgram:
    """`program`, or where something is written through a view of another shape, or mapped, the same without that.

    With a `free` batch also where it is written through one slice, whose place torch.onnx spreads over one batch.
    """
    views = _RESHAPES | _SLICES if free else _RESHAPES
    if not _is_written_through_views(program.graph, views) and not _is_mapped(program.graph):
        return program
    program = program.run_decompositions({})
    for node in list(program.graph.nodes):
        if node.target is aten._native_batch_norm_legit_no_training.default:
            x, weight, bias, mean, variance, momentum, epsilon = node.args
            _only_first(
                node, aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, epsilon, True)
            )
        elif node.target is aten.native_dropout.default and node.args[2] is False:
            _only_first(node, aten.alias.default, node.args[:1])
    program.graph.lint()
    program.graph_module.recompile()
    return program


def written_operands(node: fx.Node) -> Iterator[fx.Node]:
    """The operands that an operator writes to in place."""
    schema = getattr(node.target, "_schema", None)
    for declared, operand in zip(schema.arguments if schema is not None else (), node.args, strict=False):
        if declared.alias_info is not None and declared.alias_info.is_write and isinstance(operand, fx.Node):
            yield operand


def source_of(node: fx.Node) -> fx.Node:
    """What a view is a view of, one of several by `chunk` as well, and what an operator in place gives back."""
    while (_is_view(node) or _is_part_of_views(node)) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _is_view(node: fx.Node) -> bool:
    returns: Any = getattr(getattr(node.target, "_schema", None), "returns", ())
    return bool(returns) and returns[0].alias_info is not None


def _is_part_of_views(node: fx.Node) -> bool:
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _is_view(node.args[0])


def apart_from_others(graph: fx.Graph) -> None:
    """Operators in place whose operand nobody else sees, such as `relu_` behind a layer, in their plain form, in place.

    Converters read fewer of the others, and of some, `selu_` and `elu_` of whole numbers, other numbers.
    """
    for node in graph.nodes:
        if node.op != "call_function" or not node.args or node.args[0] not in written_operands(node):
            continue
        operand, plain = node.args[0], plain_form(node.target)
        alone = operand.op == "call_function" and source_of(operand) is operand and set(operand.users) == {node}
        if alone and plain is not None:
            node.target = plain


def plain_form(target: Any) -> Any:
    """The operator that gives what `target` writes; None where there is none that takes the same."""
    name = target._opname
    packet = getattr(aten, name[:-1], None) if name.endswith("_") and not name.startswith("_") else None
    wanted = _takes(target)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return next((one for one in overloads if _takes(one) == wanted), None)


def _takes(operator: Any) -> list[tuple[str, str]]:
    """Names and types: `pow_.Scalar` raises a tensor to a number, `pow.Scalar` a number to a tensor."""
    return [(argument.name, str(argument.real_type)) for argument in operator._schema.arguments]


def _is_written_through_views(graph: fx.Graph, views: Collection[Any]) -> bool:
    """Whether something is written to after one of these views was taken of it."""
    seen: set[fx.Node] = set()
    for node in graph.nodes:
        if any(source_of(written) in seen for written in written_operands(node)):
            return True
        if getattr(node.target, "overloadpacket", None) in views:
            seen.add(source_of(node))
    return False


def _is_mapped(graph: fx.Graph) -> bool:
    """Whether calls of functorch, such as `torch.vmap` and `torch.func.grad`, are left in it."""
    return any("functorch" in str(getattr(node.target, "__module__", "")) for node in graph.nodes)


def _only_first(node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    """One operator in the place of one that gives several results, of which the first alone is read."""
    firsts = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    if len(firsts) != len(node.users):
        return
    node.target, node.args, node.kwargs = target, args, {}
    node.meta["val"] = node.meta["val"][0]
    for first in firsts:
        first.replace_all_uses_with(node)
        node.graph.erase_node(first)
