"""The constants of a graph that may be weights, however a file writes them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from idp_deploy.formats.onnx.write.storing import SHARED_ENTRIES

DOMAINS = ("", "ai.onnx")


def take_constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Take the tensors out of the graph's Constant nodes."""
    found, kept = [], []
    for node in graph.node:
        tensor = _tensor(node) if len(node.output) == 1 else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            found.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    return found


def may_hold(node: onnx.NodeProto) -> bool:
    """Whether a node of a function gives a tensor that may be a weight, its own or one that its caller hands over."""
    return _tensor(node) is not None or (
        node.op_type == "Constant" and any(attribute.ref_attr_name for attribute in node.attribute)
    )


def _tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node gives, where that may be a weight."""
    if node.op_type != "Constant" or node.domain not in DOMAINS or not node.attribute:
        return None
    attribute = node.attribute[0]
    tensor = attribute.t if attribute.name == "value" else None
    if attribute.name == "value_floats":
        tensor = numpy_helper.from_array(np.array(attribute.floats, np.float32))
    elif attribute.name == "sparse_value":
        tensor = densified(attribute.sparse_tensor)
    return tensor if tensor is not None and np.prod(tensor.dims) >= SHARED_ENTRIES else None


def densified(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """ONNX's own sparse constant with its zeros; indices are flat, or coordinates."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    out = np.zeros(shape, values.dtype)
    out[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, shape)] = values
    return numpy_helper.from_array(out, sparse.values.name)
