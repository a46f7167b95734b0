"""Graphs inside of operators, the branches of If and bodies of Loop and Scan; order of nodes, bytes of tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper

_PACKED = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}  # bits in a file, where numpy has a byte


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
    graph.initializer.extend(taken_out(graph.node, names_around(graph) | names_at(graph.node), nested=nested))


def taken_out(nodes: Sequence[onnx.NodeProto], taken: set[str], *, nested: bool) -> list[onnx.TensorProto]:
    """The constant matrices of the bodies of nodes, which no longer hold them, each under a name of its own.

    Args:
        taken: names that are not free; those given are added.
        nested: as in `lift`.
    """
    found: list[onnx.TensorProto] = []
    for node in nodes:
        for body in subgraphs(node):
            if nested:
                lift(body)
            stay = {value.name for value in (*body.input, *body.output)}
            renames: dict[str, str] = {}
            for name, tensor in _constants(body).items():
                if is_matrix(tensor) and name not in stay:
                    renames[name] = _free(name, node, taken)
                    found.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
                    found[-1].name = renames[name]
            _leave(body, renames)
    return found


def copy_results(graph: onnx.GraphProto) -> None:
    """Let bodies give copies of what they hold or make: what a constant decides of that may then be taken out."""
    for node in graph.node:
        for body in subgraphs(node):
            copy_results(body)
            given = {value.name for value in body.input}
            taken = names_around(body) | names_in(body.node)
            own = {tensor.name for tensor in body.initializer} | {name for each in body.node for name in each.output}
            names = [value.name for value in body.output if value.name in own - given]
            copied = {name: _free(name, node, taken) for name in dict.fromkeys(names)}
            rename(body, copied)
            for each in body.node:
                each.output[:] = [copied.get(name, name) for name in each.output]
            for tensor in body.initializer:
                tensor.name = copied.get(tensor.name, tensor.name)
            body.node.extend(helper.make_node("Identity", [inner], [name]) for name, inner in copied.items())


def lift_computed(
    graph: onnx.GraphProto, is_computed: Callable[[onnx.NodeProto], bool], outer: Set[str] = frozenset()
) -> None:
    """Move what bodies compute from constants alone out in front of them, these constants too.

    Args:
        is_computed: whether an operator is one of those that are moved.
        outer: constants of the graphs around.
    """
    taken = names_around(graph) | names_at(graph.node)
    known = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer} | outer
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            lift_computed(body, is_computed, known)
            tensors, computing = _computing(body, is_computed, known)
            names = [*(tensor.name for tensor in tensors), *(name for each in computing for name in each.output)]
            renames = {name: _free(name, node, taken) for name in names}
            for tensor in tensors:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = renames[tensor.name]
            for each in computing:
                nodes.append(onnx.NodeProto.FromString(each.SerializeToString()))
                nodes[-1].input[:] = [renames.get(name, name) for name in each.input]
                nodes[-1].output[:] = [renames[name] for name in each.output]
            known.update(renames.values())
            _leave(body, renames)
        nodes.append(node)
        if node.op_type == "Constant" or (is_computed(node) and all(name in known for name in node.input if name)):
            known.update(node.output)
    if len(nodes) > len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _computing(
    body: onnx.GraphProto, is_computed: Callable[[onnx.NodeProto], bool], known: Container[str]
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Nodes of a body that constants decide, in order, and the constants of the body that they read."""
    stay = {value.name for value in (*body.input, *body.output)}
    own = {name: tensor for name, tensor in _constants(body).items() if name not in stay}
    made: set[str] = set()
    nodes = []
    for node in body.node:
        fixed = all(name in own or name in made or name in known for name in node.input if name)
        if is_computed(node) and fixed and stay.isdisjoint(node.output):
            nodes.append(node)
            made.update(node.output)
    read = {name for node in nodes for name in node.input}
    tensors = []
    for name in own.keys() & read:
        tensors.append(onnx.TensorProto.FromString(own[name].SerializeToString()))
        tensors[-1].name = name
    return sorted(tensors, key=lambda tensor: tensor.name), nodes


def _free(name: str, node: onnx.NodeProto, taken: set[str]) -> str:
    """A name that is not taken, and now is."""
    while name in taken:
        name += f" of {node.output[0] if node.output else node.op_type}"
    taken.add(name)
    return name


def _leave(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Take constants and nodes out of a body, which reads them under other names from now on."""
    if names:
        keep(body.initializer, lambda tensor: tensor.name not in names)
        not_in(body.node, names)
        rename(body, names)


def is_matrix(tensor: onnx.TensorProto) -> bool:
    """Whether a constant has two axes or more, as weights have."""
    return len(tensor.dims) > 1


def names_around(graph: onnx.GraphProto) -> set[str]:
    """Names of what stands in a graph beside its nodes."""
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    return sparse | {each.name for each in (*graph.input, *graph.output, *graph.initializer)}


def names_at(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names that nodes read and make themselves."""
    return {name for node in nodes for name in (*node.input, *node.output)}


def names_in(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Every name that nodes and the graphs inside of them have."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input, node.output)
        for body in subgraphs(node):
            found |= names_around(body) | names_in(body.node)
    return found


def not_in(nodes: Any, names: Container[str]) -> None:
    """Take the nodes that make these values out of a graph."""
    keep(nodes, lambda node: not any(name in names for name in node.output))


def _constants(body: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in body.initializer}
    for node in body.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            found |= ((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return found


def keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Leave in a repeated field of a message what is wanted, in place."""
    for place in reversed(range(len(field))):
        if not wanted(field[place]):
            del field[place]


def rename(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let the nodes of a graph read other names, and those of graphs inside of it that have no such names."""
    for node in body.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            own = names_around(inner) | {name for each in inner.node for name in each.output}
            rename(inner, {name: other for name, other in names.items() if name not in own})


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


def tensors_in(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that the model holds, in bodies and functions as well."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_at(node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for pair in graph.sparse_initializer:
        yield from (pair.values, pair.indices)
    for node in graph.node:
        yield from _tensors_at(node)


def _tensors_at(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors, attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    for body in subgraphs(node):
        yield from _tensors_of(body)


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """What the entries of a tensor take in a file, as its type and extents say."""
    return -(-prod(tensor.dims) * bits_of(helper.tensor_dtype_to_np_dtype(tensor.data_type)) // 8)


def bits_of(dtype: np.dtype[Any]) -> int:
    """Of one entry as it lies in a file, two or four in a byte where they are that narrow."""
    return _PACKED.get(dtype.name, dtype.itemsize * 8)
