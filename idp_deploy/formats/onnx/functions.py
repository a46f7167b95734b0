"""Local functions of a model: what they hold of weights is handed to them by whoever calls them, and stands once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper, inliner

from idp_deploy.formats.onnx.bodies import is_matrix, names_around, names_at, names_in, not_in, subgraphs, taken_out

Key = tuple[str, str, str]  # domain, name, overload


@dataclass
class _Function:
    """A function with the constants that its callers hand over, by the names that they have inside of it."""

    proto: onnx.FunctionProto
    depth: int = 0  # bodies around a call of it
    held: dict[str, onnx.TensorProto] = field(default_factory=dict)


def hand_over(model: onnx.ModelProto, *, nested: bool = True) -> None:
    """Move the constant matrices of functions into the graph, from where every call brings them as further inputs.

    The model means the same. Where a function is called twice its weight is one tensor, as it is in the file.

    Args:
        nested: also those that a node inside of two bodies would read, one around the other.
    """
    functions = {(each.domain, each.name, each.overload): _Function(each) for each in model.functions}
    order = _callees_first(functions)
    _measure(model.graph, functions, order)
    for key in order:
        function = functions[key]
        ends, nodes = {*function.proto.input, *function.proto.output}, function.proto.node
        if nested or function.depth == 0:
            taken = ends | names_at(nodes)
            function.held |= {t.name: t for t in taken_out(nodes, taken, nested=nested)}
        if nested or function.depth <= 1:
            function.held |= _constants(function.proto)
        function.held |= _brought(nodes, functions, ends | names_in(nodes) | function.held.keys())
        function.proto.input.extend(function.held)
    graph = model.graph
    taken = names_in(graph.node) | names_around(graph)
    for name, tensor in _brought(graph.node, functions, taken).items():
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = name


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, whose opsets become that of the graph.

    Where there is no way from one to the other, such a function stays an operator of its own.
    """
    ways: tuple[Callable[[], onnx.ModelProto], ...] = (
        lambda: inliner.inline_local_functions(model, convert_version=True),
        lambda: inliner.inline_local_functions(_typed(model), convert_version=True),
        lambda: inliner.inline_local_functions(model),
    )
    for way in ways[:-1]:
        try:
            return way()
        except Exception:  # onnx raises many kinds
            continue
    return ways[-1]()


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of its values, those of constants among them, so far as they can be inferred."""
    typed = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in (*typed.graph.value_info, *typed.graph.input)}
    for tensor in typed.graph.initializer:
        if tensor.name not in known:
            typed.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return typed


def _constants(function: onnx.FunctionProto) -> dict[str, onnx.TensorProto]:
    """Take the matrices out of the function's Constant nodes."""
    found = {
        node.output[0]: attribute.t
        for node in function.node
        if node.op_type == "Constant" and len(node.output) == 1 and node.output[0] not in function.output
        for attribute in node.attribute
        if attribute.name == "value" and is_matrix(attribute.t)
    }
    copies = {name: onnx.TensorProto.FromString(tensor.SerializeToString()) for name, tensor in found.items()}
    not_in(function.node, copies)
    return copies


def _brought(
    nodes: Sequence[onnx.NodeProto], functions: Mapping[Key, _Function], taken: set[str]
) -> dict[str, onnx.TensorProto]:
    """What the functions that nodes call hold, now among the inputs of these nodes, by the names it has there."""
    names: dict[tuple[Key, str], str] = {}
    tensors: dict[str, onnx.TensorProto] = {}
    for node, _ in _calls(nodes):
        key = (node.domain, node.op_type, node.overload)
        function = functions.get(key)
        if function is None or not function.held:
            continue
        node.input.extend([""] * (len(function.proto.input) - len(function.held) - len(node.input)))
        for inner, tensor in function.held.items():
            if (key, inner) not in names:
                name = inner
                while name in taken:
                    name += f" of {node.op_type}"
                taken.add(name)
                names[key, inner], tensors[name] = name, tensor
            node.input.append(names[key, inner])
    return tensors


def _calls(nodes: Sequence[onnx.NodeProto], depth: int = 0) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Every node and how many bodies are around it."""
    for node in nodes:
        yield node, depth
        for body in subgraphs(node):
            yield from _calls(body.node, depth + 1)


def _callees_first(functions: Mapping[Key, _Function]) -> list[Key]:
    """Functions behind those they call; one that calls itself somehow stands anywhere, and no runtime takes it."""
    order: dict[Key, None] = {}
    entered: set[Key] = set()
    stack = [(key, False) for key in functions]
    while stack:
        key, done = stack.pop()
        if done:
            order[key] = None
        elif key not in entered:
            entered.add(key)
            stack.append((key, True))
            called = {(node.domain, node.op_type, node.overload) for node, _ in _calls(functions[key].proto.node)}
            stack.extend((each, False) for each in sorted(called & functions.keys()))
    return list(order)


def _measure(graph: onnx.GraphProto, functions: Mapping[Key, _Function], order: Sequence[Key]) -> None:
    """How many bodies are around the calls of each function."""
    for caller in (None, *reversed(order)):
        nodes, depth = (graph.node, 0) if caller is None else (functions[caller].proto.node, functions[caller].depth)
        for node, inside in _calls(nodes):
            called = functions.get((node.domain, node.op_type, node.overload))
            if called is not None:
                called.depth = max(called.depth, depth + inside)
