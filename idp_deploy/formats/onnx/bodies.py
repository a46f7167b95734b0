"""Graphs inside of operators, the branches of If and bodies of Loop and Scan; and the order of nodes in all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of If, Loop, Scan and the like."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def lift(graph: onnx.GraphProto, *, nested: bool = True) -> None:
    """Move the constant matrices of bodies out into the graph around them, which means the same to every runtime.

    Where two bodies use one name, the second gets another. Vectors and scalars stay: they are mostly arguments.

    Args:
        nested: from bodies inside of bodies too. onnxruntime multiplies by a constant from two graphs further out in
            another order than by one of its own, which shows in the last bit.
    """
    taken = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for body in subgraphs(node):
            if nested:
                lift(body)
            stay = {value.name for value in (*body.input, *body.output)}
            renames: dict[str, str] = {}
            for name, tensor in _constants(body).items():
                if len(tensor.dims) > 1 and name not in stay:
                    renames[name] = name
                    while renames[name] in taken:
                        renames[name] += f" of {node.output[0] if node.output else node.op_type}"
                    taken.add(renames[name])
                    graph.initializer.add().CopyFrom(tensor)
                    graph.initializer[-1].name = renames[name]
            if renames:
                _keep(body.initializer, [tensor for tensor in body.initializer if tensor.name not in renames])
                _keep(body.node, [inner for inner in body.node if not renames.keys() & set(inner.output)])
                _rename(body, renames)


def _constants(body: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in body.initializer}
    for node in body.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            found |= ((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return found


def _keep(field: Any, kept: list[Any]) -> None:
    copies = [type(each).FromString(each.SerializeToString()) for each in kept]
    del field[:]
    field.extend(copies)


def _rename(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in body.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            _rename(inner, names)


def put_in_order(graph: onnx.GraphProto) -> None:
    """Sort the nodes of a graph and of those inside it, in place; as they are where they read each other in a circle.

    onnxruntime sorts files as it loads them; its own conversion to float16 appends casts of inputs at the end.
    """
    for node in graph.node:
        for body in subgraphs(node):
            put_in_order(body)
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    waits = [{makers[name] for name in _reads(node) if name in makers} for node in graph.node]
    if all(max(before, default=-1) < place for place, before in enumerate(waits)):
        return
    readers: dict[int, list[int]] = {}
    for place, before in enumerate(waits):
        for other in before:
            readers.setdefault(other, []).append(place)
    ready, order = deque(place for place, before in enumerate(waits) if not before), []
    while ready:
        order.append(ready.popleft())
        for place in readers.get(order[-1], ()):
            waits[place].discard(order[-1])
            if not waits[place]:
                ready.append(place)
    if len(order) == len(graph.node):
        nodes = [onnx.NodeProto.FromString(graph.node[place].SerializeToString()) for place in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node takes, those of its bodies among them."""
    found = {name for name in node.input if name}
    for body in subgraphs(node):
        for inner in body.node:
            found |= _reads(inner)
        found |= {value.name for value in body.output}
    return found
