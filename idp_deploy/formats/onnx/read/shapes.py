"""Shapes and types of activations, by ONNX's own shape inference with the weights' shapes filled in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from idp_deploy.flow import Value
from idp_deploy.formats.onnx.read.evaluating import EVALUATORS, Limits, is_computed, is_standard

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
_BATCHES = (1, 7)  # an extent that differs between these two follows the batch
_ROUNDS = 32  # of inference, each behind one more shape that the graph computes
_LONGEST = 64  # entries of a computed shape
PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits")  # onnxruntime's: (rows, matrix, …)

# onnxruntime's operators → the one of ONNX that has the shape of their first output, and which of their inputs it reads
_SHAPED = {
    **dict.fromkeys(("BiasGelu", "FastGelu", "MoE", "QMoE", "QuickGelu"), ("Identity", (0,))),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), ("Identity", (0,))),
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
}


def infer(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    constants: Shapes,
    arguments: Mapping[str, np.ndarray],
    limits: Limits,
) -> dict[str, Value]:
    """Values by name, at batch 1: an extent that is unknown is -1, and so is a first one that is the free batch itself.

    Values of unknown type or rank are left out; inputs and outputs of unknown rank are () here.

    Inference runs with the batch fixed at two sizes rather than once with it free: reshapes are then followed to the
    end, where symbols are lost.

    Args:
        nodes: the graph's operators without decode nodes.
        constants: (shape, dtype) of each weight that `nodes` read.
        arguments: the small constants whose values decide shapes.
        limits: of what is computed on the way.
    """
    nodes = [_plain(node) for node in nodes]
    one, other = (_followed(model, nodes, constants, arguments, batch, limits) for batch in _BATCHES)
    values = {
        value.name: Value(value.name, (), _dtype_name(value.type.tensor_type.elem_type), has_rank=False)
        for value in (*model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type and value.name not in constants
    }
    for name, value in one.items():
        shape, twin = value.shape, other.get(name, value).shape
        free = len(shape) == len(twin) and shape[:1] == (1,) and twin[:1] != (1,)
        values[name] = Value(name, (-1, *shape[1:]) if free else shape, value.dtype)
    return values


def _plain(node: onnx.NodeProto) -> onnx.NodeProto:
    """An operator of onnxruntime's own as the one of ONNX that has its shape."""
    if node.domain and is_standard(node):
        return helper.make_node(node.op_type, node.input, node.output, name=node.name)
    attributes = {a.name: a.i for a in node.attribute}
    if node.domain and node.op_type in _SHAPED and not attributes.get("channels_last"):
        kind, places = _SHAPED[node.op_type]
        turned = {name: attributes[name] for name in ("transA", "transB") if name in attributes}
        return helper.make_node(kind, [node.input[n] for n in places], node.output[:1], name=node.name, **turned)
    if node.op_type not in PRODUCTS:
        return node
    return helper.make_node("MatMul", node.input[:2], node.output, name=node.name)


def _followed(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    constants: Shapes,
    arguments: Mapping[str, np.ndarray],
    batch: int,
    limits: Limits,
) -> dict[str, Value]:
    """Inference again and again while the graph computes a shape from extents that the round before made known."""
    known = dict(arguments)
    for _ in range(_ROUNDS):
        rest = [node for node in nodes if not all(name in known for name in node.output)]
        values = _infer(model, rest, constants, known, batch)
        if all(name in values and min(values[name].shape, default=0) >= 0 for node in rest for name in node.output):
            break
        found = _computed(rest, values, known, limits)
        if not found:
            break
        known |= found
    made = {name: Value(name, array.shape, array.dtype.name) for name, array in known.items() if name not in arguments}
    return values | made


def _computed(
    nodes: list[onnx.NodeProto], values: Mapping[str, Value], known: Mapping[str, np.ndarray], limits: Limits
) -> dict[str, np.ndarray]:
    """What comes of `Shape` where all extents are known, and of arithmetic on that."""
    found: dict[str, np.ndarray] = {}
    for node in nodes:
        inputs = [found.get(name, known.get(name)) for name in node.input]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Shape" and node.input[0] in values:
            shape = values[node.input[0]].shape
            result = np.array(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], np.int64)
            if np.all(result >= 0):
                found[node.output[0]] = result
        elif is_computed(node) and len(node.output) == 1 and all(array is not None for array in inputs):
            try:
                result = np.asarray(EVALUATORS[node.op_type](inputs, attributes, limits))
            except Exception:  # a contradiction: the runtime's to say, not that of a shape
                continue
            if result.size <= _LONGEST:
                found[node.output[0]] = result
    return found


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
        if kind.elem_type and kind.HasField("shape") and value.name not in constants:
            dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
            values[value.name] = Value(value.name, dims, _dtype_name(kind.elem_type))
    return values


def _dtype_name(code: int) -> str:
    try:
        return helper.tensor_dtype_to_np_dtype(code).name
    except KeyError:
        return f"type {code}"
