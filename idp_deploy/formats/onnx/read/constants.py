"""What a runtime would compute once while loading: constants, and the nodes that only depend on constants.

A weight may be an initializer, or come out of decode nodes. Both are evaluated here with plain numpy, following the
operator specification at https://onnx.ai/onnx/operators/ — not the code that wrote the file.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from idp_deploy.errors import FileError
from idp_deploy.formats.onnx.read.parsing import TensorLoader, checked_count, sparse_name

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
    data, starts, ends, axes, steps = inputs + [None] * (5 - len(inputs))
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
    if attributes.get("reduction", b"none") != b"none":
        raise ValueError("a reduction")
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
    if attributes.get("exclusive", 0) or attributes.get("reverse", 0):
        raise ValueError("an exclusive or reversed sum")
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


def _squeeze(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
    return np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    axes = inputs[1] if len(inputs) > 1 else attributes["axes"]
    return np.expand_dims(inputs[0], tuple(int(a) for a in axes))


def _dequantize(inputs: list[Any], attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    data, scale = inputs[0], inputs[1]
    zero_point = inputs[2] if len(inputs) > 2 else np.zeros((), np.int32)
    if attributes.get("block_size", 0):
        raise ValueError("blocked quantization")
    if scale.ndim == 1 and scale.size > 1:
        extents = [1] * data.ndim
        extents[attributes.get("axis", 1)] = -1
        scale, zero_point = scale.reshape(extents), zero_point.reshape(extents if zero_point.ndim else ())
    if np.broadcast_shapes(data.shape, scale.shape, zero_point.shape) != data.shape:
        raise ValueError("scales that do not fit the axis")
    return ((data.astype(np.int32) - zero_point.astype(np.int32)) * scale).astype(scale.dtype)


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
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Identity": lambda inputs, attributes, limits: inputs[0],
    "Less": _pairwise(np.less),
    "Mod": _pairwise(_modulo),
    "Mul": _pairwise(np.multiply),
    "Reshape": _reshape,
    "ScatterElements": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _pairwise(np.subtract),
    "Transpose": lambda inputs, attributes, limits: np.transpose(inputs[0], attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
}


class Constants:
    """The constants of one graph and how each is computed.

    `nodes` are those that depend on constants alone (by output name); all others are the graph's own operators.
    """

    def __init__(self, graph: onnx.GraphProto, loader: TensorLoader, limits: Limits) -> None:
        self.loader, self.limits = loader, limits
        self.stored: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = {}
        self.stored.update((tensor.name, tensor) for tensor in graph.initializer)
        self.stored.update((sparse_name(tensor), tensor) for tensor in graph.sparse_initializer)
        self.nodes: dict[str, onnx.NodeProto] = {}
        self._pieces: dict[str, np.ndarray] = {}  # what a Split gives, for every piece comes out of the same work
        for node in graph.node:
            tensor = _constant_tensor(node)
            if tensor is not None:
                self.stored[node.output[0]] = tensor
            elif _is_known(node) and all(name in self for name in node.input if name):
                self.nodes |= dict.fromkeys(node.output, node)

    def __contains__(self, name: str) -> bool:
        return name in self.stored or name in self.nodes

    def cone(self, name: str, known: Container[str] = ()) -> list[str]:
        """Everything `name` is computed from and itself, inputs before outputs; what is behind `known` is left out."""
        order: list[str] = []
        seen: set[str] = set()
        stack = [(name, False)]
        while stack:
            current, entered = stack.pop()
            if entered:
                order.append(current)
            elif current not in seen:
                seen.add(current)
                stack.append((current, True))
                if current in self.nodes and current not in known:
                    stack.extend((source, False) for source in reversed(self.nodes[current].input) if source)
        return order

    def value(self, name: str) -> np.ndarray:
        """Evaluate one constant; FileError where its nodes contradict each other."""
        values: dict[str, Any] = {"": None}
        for current in self.cone(name, self._pieces):
            if current in self._pieces:
                values[current] = self._pieces[current]
                continue
            if current in self.stored:
                tensor = self.stored[current]
                sparse = isinstance(tensor, onnx.SparseTensorProto)
                values[current] = (
                    self.loader.sparse(tensor, self.limits.entries) if sparse else self.loader.array(tensor)
                )
                continue
            node = self.nodes[current]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            try:
                result = EVALUATORS[node.op_type]([values[n] for n in node.input], attributes, self.limits)
                if node.op_type == "Split":
                    self._pieces |= zip(node.output, result, strict=True)
                    result = self._pieces[current]
            except FileError:
                raise
            except Exception as error:
                raise FileError(
                    f"{self.loader.path}: {node.op_type} of '{current}' cannot be computed: {error}"
                ) from error
            values[current] = np.asarray(result)
            self.limits.check(values[current].shape, current)
        return values[name]

    def size_bytes(self, name: str) -> int:
        """Bytes as stored of one initializer, sparse initializer or Constant node."""
        tensor = self.stored[name]
        if isinstance(tensor, onnx.SparseTensorProto):
            return self.loader.size_bytes(tensor.values) + self.loader.size_bytes(tensor.indices)
        return self.loader.size_bytes(tensor)


def _is_known(node: onnx.NodeProto) -> bool:
    known = node.domain in ("", "ai.onnx") and node.op_type in EVALUATORS
    if node.op_type == "Split":
        sized = len(node.input) > 1 or any(attribute.name == "split" for attribute in node.attribute)
        return known and sized and all(node.output)
    return known and len(node.output) == 1 and len(node.input) > 0


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | onnx.SparseTensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute or not node.output:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return value
    if attribute.name == "sparse_value":
        named = onnx.SparseTensorProto()
        named.CopyFrom(value)
        named.values.name = node.output[0]
        return named
    dtype = np.int64 if attribute.name.startswith("value_int") else np.float32
    if attribute.name.startswith("value_string"):
        return None
    return onnx.numpy_helper.from_array(np.asarray(value, dtype), node.output[0])
