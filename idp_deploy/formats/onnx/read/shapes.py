"""Shapes and types of activations, by ONNX's own shape inference with the weights' shapes filled in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from idp_deploy.flow import Value

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
_BATCHES = (1, 7)  # an extent that differs between these two follows the batch


def infer(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Shapes, arguments: Mapping[str, np.ndarray]
) -> dict[str, Value]:
    """Values by name; an extent that follows a free batch, or is unknown, is -1. Values of unknown type are left out.

    Inference runs with the batch fixed at two sizes rather than once with it free: reshapes are then followed to the
    end, where symbols are lost.

    Args:
        nodes: the graph's operators without decode nodes.
        constants: (shape, dtype) of each weight that `nodes` read.
        arguments: the small constants whose values decide shapes.
    """
    one, other = (_infer(model, nodes, constants, arguments, batch) for batch in _BATCHES)
    values = {}
    for name, value in one.items():
        twin = other.get(name, value).shape
        extents = zip(value.shape, twin, strict=True) if len(twin) == len(value.shape) else ()
        values[name] = Value(name, tuple(a if a == b else -1 for a, b in extents), value.dtype)
    return values


def _infer(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    constants: Shapes,
    arguments: Mapping[str, np.ndarray],
    batch: int,
) -> dict[str, Value]:
    graph = onnx.GraphProto(name="shapes", node=nodes)
    for value in model.graph.input:
        if value.name not in constants and value.name not in arguments:
            own = graph.input.add()
            own.CopyFrom(value)
            dims = own.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = batch
    for name, (shape, dtype) in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arguments.items())
    for value in model.graph.output:
        own = graph.output.add()
        own.CopyFrom(value)
        own.type.tensor_type.ClearField("shape")
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph, opset_import=model.opset_import)
    try:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # an operator outside of ONNX, or a contradiction: what the file declares is still known
        graph.value_info.extend(model.graph.value_info)
    values = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type and value.name not in constants:
            dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
            values[value.name] = Value(value.name, dims, _dtype_name(kind.elem_type))
    return values


def _dtype_name(code: int) -> str:
    try:
        return helper.tensor_dtype_to_np_dtype(code).name
    except KeyError:
        return f"type {code}"
