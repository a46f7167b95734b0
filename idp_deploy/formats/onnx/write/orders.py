"""The same numbers in the order of operators that other runtimes read right.

OpenCV 5.0 takes `x · HardSigmoid(y)` of slope 1/6 for HardSwish(y), whatever x is, and gives y's shape without an
error; a GELU written `x · (0.5 · (1 + erf(…)))` ends its process, while `0.5 · (x · (1 + erf(…)))` does not
(bench.compat_onnx).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from idp_deploy.formats.onnx.write.nodes import all_nodes

_SIXTH = np.float32(1 / 6)
_NEXT_TO_A_SIXTH = np.float32(0.1666667)  # two steps of float32 above, too far for that pattern


def reorder(graph: onnx.GraphProto) -> None:
    """Rewrite both in place: the second one bit for bit, the first within two steps of float32."""
    producers = {name: node for node in graph.node for name in node.output}
    read = [name for node in all_nodes(graph) for name in node.input] + [value.name for value in graph.output]
    halves = {tensor.name for tensor in graph.initializer if _is_half(tensor)}
    order: list[onnx.NodeProto] = []
    for node in graph.node:
        order.append(node)
        if node.op_type != "Mul":
            continue
        for gate, other in (node.input, reversed(node.input)):
            made = producers.get(gate)
            if made is None:
                continue
            if made.op_type == "HardSigmoid" and made.input[0] != other:
                _step_aside(made)
            if made.op_type == "Mul" and read.count(gate) == 1 and _grows(made, halves, producers):
                half = next(name for name in made.input if name in halves)
                grown = next(name for name in made.input if name != half)
                made.input[:] = [other, grown]
                node.input[:] = [gate, half]
                order.remove(made)  # what it reads now may come after where it stood, and nobody else reads it
                order.insert(-1, made)
                break
    del graph.node[:]
    graph.node.extend(order)


def _grows(product: onnx.NodeProto, halves: set[str], producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether it is 0.5 · (1 + erf(…))."""
    if len(halves & set(product.input)) != 1:
        return False
    (sum_,) = (name for name in product.input if name not in halves)
    added = producers.get(sum_)
    if added is None or added.op_type != "Add":
        return False
    return any(name in producers and producers[name].op_type == "Erf" for name in added.input)


def _is_half(tensor: onnx.TensorProto) -> bool:
    return not tensor.dims and tensor.data_type == onnx.TensorProto.FLOAT and numpy_helper.to_array(tensor) == 0.5


def _step_aside(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "alpha" and np.float32(attribute.f) == _SIXTH:
            attribute.f = float(_NEXT_TO_A_SIXTH)
