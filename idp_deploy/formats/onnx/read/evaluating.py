"""The operators that a runtime computes once while loading, each by numpy alone.

They follow the specification at https://onnx.ai/onnx/operators/ — not the code that wrote the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from idp_deploy.formats.onnx.read.parsing import checked_count

Evaluate = Callable[[list[Any], Mapping[str, Any], "Limits"], Any]  # one array, or the pieces of a Split


class Limits:
    """How large a computed constant may get: a small file must not unfold into all of memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = max(1 << 24, 1024 * path.stat().st_size)

    def check(self, shape: tuple[int, ...], what: str) -> None:
        """FileError where a constant of this shape would be too large."""
        checked_count(shape, self.entries, self.path, what)


def _slice(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    before_opset_10 = [attributes.get(name) for name in ("starts", "ends", "axes")]
    given = inputs if len(inputs) > 1 else inputs + before_opset_10
    data, starts, ends, axes, steps = given + [None] * (5 - len(given))
    picks = [slice(None)] * data.ndim
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else int(steps[i])
        start, end = int(starts[i]), int(ends[i])
        if step < 0 and end < -data.shape[axis]:
            picks[axis] = slice(start, None, step)
        else:
            picks[axis] = slice(start, end, step)
    return data[tuple(picks)]


def _scatter(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    data, indices, updates = inputs
    axis = attributes.get("axis", 0)
    extent = data.shape[axis]
    if indices.size and (indices.min() < -extent or indices.max() >= extent):
        raise IndexError(f"an index outside of [{-extent}, {extent})")
    out = data.copy()
    np.put_along_axis(out, np.where(indices < 0, indices + extent, indices), updates, axis)
    return out


def _gather(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    data, indices = inputs
    axis = attributes.get("axis", 0) % data.ndim
    limits.check((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), "Gather")
    return np.take(data, indices, axis)


def _gather_elements(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    data, indices = inputs
    axis = attributes.get("axis", 0) % data.ndim
    extent = data.shape[axis]
    if indices.size and (indices.min() < -extent or indices.max() >= extent):
        raise IndexError(f"an index outside of [{-extent}, {extent})")
    return np.take_along_axis(data, np.where(indices < 0, indices + extent, indices), axis)


def _reshape(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    data, shape = inputs
    keep_zero = attributes.get("allowzero", 0)
    return data.reshape([data.shape[i] if n == 0 and not keep_zero else int(n) for i, n in enumerate(shape)])


def _constant_of_shape(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    shape = tuple(int(n) for n in inputs[0])
    limits.check(shape, "ConstantOfShape")
    value = attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    return np.full(shape, fill.reshape(-1)[0], fill.dtype)


def _cumsum(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    return np.cumsum(inputs[0], axis=int(inputs[1].reshape(-1)[0]), dtype=inputs[0].dtype)


def _bit_shift(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    shift = np.right_shift if attributes["direction"] == b"RIGHT" else np.left_shift
    return shift(inputs[0], inputs[1])


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integers are divided towards zero."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if not np.all(b):
        raise ZeroDivisionError("an integer divided by 0")
    return (np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)).astype(a.dtype)


def _split(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> Any:
    """All pieces: the sizes are an input, or in old files an attribute."""
    sizes = np.asarray(attributes["split"] if len(inputs) < 2 else inputs[1], np.int64)
    axis = attributes.get("axis", 0)
    if sizes.size == 0 or sizes.min() < 0 or sizes.sum() != inputs[0].shape[axis]:
        raise ValueError(f"pieces of {sizes.tolist()} from {inputs[0].shape[axis]} entries")
    return np.split(inputs[0], np.cumsum(sizes)[:-1], axis)


def _modulo(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of integers, with the sign of the divisor."""
    if a.dtype.kind == "f" or not np.all(b):
        raise ZeroDivisionError("the rest of a division by 0, or of floats")
    return np.mod(a, b)


def _flatten(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    axis = attributes.get("axis", 1)
    axis += inputs[0].ndim if axis < 0 else 0
    return inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)


def _where(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    limits.check(np.broadcast_shapes(*(array.shape for array in inputs)), "Where")
    return np.where(*inputs)


def _reduced(function: Callable[..., Any]) -> Evaluate:
    """Axes are an input, or in old files an attribute; none means all."""

    def evaluate(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
        axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
        every = tuple(range(inputs[0].ndim)) if axes is None or not len(axes) else tuple(int(a) for a in axes)
        return function(inputs[0], axis=every, keepdims=bool(attributes.get("keepdims", 1))).astype(inputs[0].dtype)

    return evaluate


def _norm(data: np.ndarray, **how: Any) -> np.ndarray:
    return np.sqrt(np.sum(np.square(data), **how))


def _squeeze(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
    return np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    axes = inputs[1] if len(inputs) > 1 else attributes["axes"]
    return np.expand_dims(inputs[0], tuple(int(a) for a in axes))


def along(parameter: np.ndarray, data: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """A scale or zero point so that it broadcasts against `data`: one for all, one a channel, or one a block.

    Raises:
        ValueError: it fits neither.
    """
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    if block:
        extents = list(data.shape)
        extents[axis] = -(-extents[axis] // block)
        if list(parameter.shape) != extents:
            raise ValueError(f"scales of {parameter.shape} for blocks of {block} in {data.shape}")
        return np.repeat(parameter, block, axis).take(range(data.shape[axis]), axis)
    if parameter.ndim == 1 and parameter.size > 1:
        extents = [1] * data.ndim
        extents[axis] = -1
        parameter = parameter.reshape(extents)
    if np.broadcast_shapes(data.shape, parameter.shape) != data.shape:
        raise ValueError("scales that do not fit the axis")
    return parameter


def _dequantize(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    data, scale = inputs[0], along(inputs[1], inputs[0], attributes)
    wide = np.float32 if data.dtype.kind in "fV" or "float" in data.dtype.name else np.int32
    if len(inputs) < 3 or inputs[2] is None:
        return (data.astype(wide) * scale).astype(scale.dtype)
    zero_point = along(inputs[2], data, attributes)
    return ((data.astype(wide) - zero_point.astype(wide)) * scale).astype(scale.dtype)


def _quantize(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    """To integers, rounded half to even."""
    data, scale = inputs[0], along(inputs[1], inputs[0], attributes)
    zero_point = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros((), np.uint8)
    ends = np.iinfo(zero_point.dtype)  # ValueError: not of numpy's own integers
    codes = np.rint(data / scale) + along(zero_point, data, attributes).astype(np.float32)
    return np.clip(codes, ends.min, ends.max).astype(zero_point.dtype)


def _cast(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    return inputs[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))


def _pairwise(function: Callable[..., Any]) -> Evaluate:
    def evaluate(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
        limits.check(np.broadcast_shapes(inputs[0].shape, inputs[1].shape), function.__name__)
        return function(inputs[0], inputs[1])

    return evaluate


EVALUATORS: dict[str, Evaluate] = {
    "Add": _pairwise(np.add),
    "BitShift": _bit_shift,
    "BitwiseAnd": _pairwise(np.bitwise_and),
    "Cast": _cast,
    "Concat": lambda inputs, attributes, limits: np.concatenate(inputs, attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumsum,
    "DequantizeLinear": _dequantize,
    "Div": _pairwise(_divide),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Identity": lambda inputs, attributes, limits: inputs[0],
    "Less": _pairwise(np.less),
    "Max": lambda inputs, attributes, limits: reduce(np.maximum, inputs),
    "Mod": _pairwise(_modulo),
    "Mul": _pairwise(np.multiply),
    "Neg": lambda inputs, attributes, limits: -inputs[0],
    "QuantizeLinear": _quantize,
    "ReduceL2": _reduced(_norm),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Reshape": _reshape,
    "ScatterElements": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda inputs, attributes, limits: np.sqrt(inputs[0]),
    "Squeeze": _squeeze,
    "Sub": _pairwise(np.subtract),
    "Transpose": lambda inputs, attributes, limits: np.transpose(inputs[0], attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
_EARLY = ("DequantizeLinear", "QuantizeLinear")  # with int16 and int4, which onnxruntime's quantizers write so
# operator → the attributes of forms that are not computed here: such a node stays an operator of the graph
_OTHER_FORMS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "Cast": lambda a: not isinstance(a.get("to"), int),  # a name, before opset 6
    "CumSum": lambda a: bool(a.get("exclusive") or a.get("reverse")),
    "Mod": lambda a: bool(a.get("fmod")),
    "QuantizeLinear": lambda a: bool(a.get("output_dtype")),
    "ReduceSum": lambda a: bool(a.get("noop_with_empty_axes")),
    "ReduceL2": lambda a: bool(a.get("noop_with_empty_axes")),
    "ReduceProd": lambda a: bool(a.get("noop_with_empty_axes")),
    "ScatterElements": lambda a: a.get("reduction", b"none") != b"none",
}


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether an operator is ONNX's own, or one that onnxruntime had before ONNX and that does the same."""
    return node.domain in ("", "ai.onnx") or (node.domain == "com.microsoft" and node.op_type in _EARLY)


def is_computed(node: onnx.NodeProto) -> bool:
    """Whether a node can be computed here once its inputs are known: an operator of ONNX in a form of `EVALUATORS`."""
    if not is_standard(node) or node.op_type not in EVALUATORS or not node.input:
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    if _OTHER_FORMS.get(node.op_type, lambda _: False)(attributes):
        return False
    if node.op_type == "Split":
        return (len(node.input) > 1 or "split" in attributes) and all(node.output)
    return len(node.output) == 1
