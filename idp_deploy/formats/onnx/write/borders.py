"""A border of zeros in front of a pool, said so that onnxruntime leaves it there.

onnxruntime 1.31 moves such a Pad into the MaxPool behind it, whose own border counts as -inf: where all entries of a
window are negative the answer is one of them instead of 0 (findings/onnxruntime_zero_border.sh). An AveragePool that
rounds its size up gets a border that counts from it, and divides by places beyond that border in integers
(findings/onnxruntime_int8_average_rounded_up.sh). It looks at bytes, so a border of -0.0 stays, and every runtime
reads that as 0.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from idp_deploy.formats.onnx.bodies import subgraphs
from idp_deploy.formats.onnx.write.nodes import all_nodes


def hold_borders(graph: onnx.GraphProto) -> None:
    """Give every Pad by zeros that such a pool reads, also through a Cast, the value -0.0, in place."""
    nodes = list(all_nodes(graph))
    graphs = [graph, *(body for node in nodes for body in subgraphs(node))]
    stored = {tensor.name: tensor for each in graphs for tensor in each.initializer}
    kinds = {
        value.name: value.type.tensor_type.elem_type for each in graphs for value in (*each.value_info, *each.input)
    }
    pooled = {node.input[0] for node in nodes if node.op_type == "MaxPool" or _rounds_up(node)}
    pooled |= {node.input[0] for node in nodes if node.op_type == "Cast" and node.output[0] in pooled}
    for node in nodes:
        if node.op_type != "Pad" or node.output[0] not in pooled or _mode(node) != b"constant":
            continue
        value = node.input[2] if len(node.input) > 2 else ""
        if value and (value not in stored or np.any(numpy_helper.to_array(stored[value]))):
            continue
        kind = helper.tensor_dtype_to_np_dtype(kinds.get(node.input[0]) or onnx.TensorProto.FLOAT)
        if kind.kind != "f":
            continue
        name = f"{node.output[0]}_border"
        graph.initializer.append(numpy_helper.from_array(np.array(-0.0, kind), name))
        node.input[:] = [*node.input[:2], name, *node.input[3:]]


def _mode(node: onnx.NodeProto) -> bytes:
    return next((bytes(attribute.s) for attribute in node.attribute if attribute.name == "mode"), b"constant")


def _rounds_up(node: onnx.NodeProto) -> bool:
    return node.op_type == "AveragePool" and any(each.name == "ceil_mode" and each.i for each in node.attribute)
