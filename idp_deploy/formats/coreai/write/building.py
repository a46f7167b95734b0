"""building: the operators of Core AI's dialect that hold and decode a weight, put in the place of a constant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_NUMPY = {
    "f16": "<f2", "f32": "<f4", "si8": "i1", "ui8": "u1", "si16": "<i2", "ui16": "<u2", "si32": "<i4", "ui32": "<u4",
}  # fmt: skip
_LABEL = "weight:"  # before a parameter's name, as the reader finds it


def constants(program: Any) -> list[Any]:
    """Every constant of a program, in order, those inside of other operators too."""
    from coreai._compiler.ir import WalkResult

    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.name == "coreai.constant":
            found.append(op)
        return WalkResult.ADVANCE

    program._module._mlir_module.operation.walk(visit)
    return found


def values_of(op: Any) -> np.ndarray | None:
    """The numbers of a float constant; None for any other, also one that has the same number everywhere."""
    kind = {"f16": np.float16, "f32": np.float32}.get(str(getattr(op.result.type, "element_type", "")))
    if kind is None or not op.result.type.has_static_shape or getattr(op.attributes["value"], "is_splat", False):
        return None
    return _bytes_of(op).view(kind).reshape(tuple(op.result.type.shape))


def _bytes_of(op: Any) -> np.ndarray:
    from coreai._compiler._mlir_libs._coreaiIR import _bindings

    size = math.ceil(math.prod(op.result.type.shape) * op.result.type.element_type.width / 8)
    data = np.zeros(size, np.uint8)
    if size:
        _bindings.compiler.copy_constant_value_to_array(constant_op=op, destination=data)
    return data


class Builder:
    """Makes operators in front of one constant at a time, all under the name of one weight."""

    def __init__(self) -> None:
        self._location: Any = None

    @contextmanager
    def before(self, op: Any, label: str) -> Iterator[None]:
        """Inside, operators are put in front of `op` and named `label`."""
        from coreai._compiler.ir import InsertionPoint
        from coreai.authoring import DebugInfo

        with op.context:
            unnamed = DebugInfo.unknown()
            named = unnamed.with_metadata(_LABEL + label.replace('"', "'")) if label else unnamed
            self._location = named._to_mlir()
            with self._location, InsertionPoint(op):
                yield

    def replace(self, op: Any, value: Any) -> None:
        """Let `value` be read wherever the constant was."""
        op.result.replace_all_uses_with(value)
        op.operation.erase()

    def constant(self, values: np.ndarray, element: Any = None, packed: np.ndarray | None = None) -> Any:
        """A constant of numpy's type, or of `element` with its `packed` bytes."""
        from coreai._compiler.dialects import coreai
        from coreai._compiler.ir import DenseElementsAttr, RankedTensorType

        kind = RankedTensorType.get(values.shape, element if element is not None else _element(values.dtype))
        value: Any
        if values.size and (values == values.reshape(-1)[0]).all():
            value = DenseElementsAttr.get_splat(kind, _scalar(kind.element_type, values.reshape(-1)[0]))
        elif element is not None and element.width == 4:  # inline it would take a byte an entry
            value = _resource(kind, packed)
        else:
            value = _inline(values if packed is None else packed, kind)
        return coreai.ConstantOp(value=value, loc=self._location).result

    def sparse(self, values: np.ndarray, mask: np.ndarray) -> Any:
        """`values` where `mask` is set, in its order, and zero elsewhere."""
        return self.sparse_of(self.constant(values), mask)

    def sparse_of(self, values: Any, mask: np.ndarray) -> Any:
        """The same of values that are decoded themselves."""
        from coreai._compiler.dialects import coreai
        from coreai._compiler.ir import IntegerType

        packed = np.packbits(mask.reshape(-1), bitorder="little")
        bits = self.constant(mask.astype(np.uint8), IntegerType.get_unsigned(1), packed)
        sparse = coreai.BuildSparseWithBitmaskOp(values, bits, loc=self._location).result
        return coreai.SparseWithBitmaskToDenseOp(sparse, loc=self._location).result

    def scaled(self, integers: Any, scales: np.ndarray) -> Any:
        """integers · scales, in the type of the scales: the runtime takes no other for the result."""
        from coreai._compiler.dialects import coreai

        scale = self.constant(scales)
        shift = self.constant(np.zeros(scales.shape, np.int8))
        bias = self.constant(np.zeros(scales.shape, scales.dtype))
        return coreai.BlockwiseShiftScaleOp(integers, scale, shift, bias, loc=self._location).result

    def palette(self, indices: np.ndarray, table: np.ndarray) -> Any:
        """table[indices]; indices of any shape, 16 entries."""
        from coreai._compiler.dialects import coreai
        from coreai._compiler.ir import IntegerType

        flat = np.append(indices.reshape(-1), np.zeros(indices.size % 2, np.uint8))
        packed = (flat[::2] | flat[1::2] << 4).astype(np.uint8)
        places = self.constant(indices, IntegerType.get_unsigned(4), packed)
        lut = self.constant(table.reshape((1,) * indices.ndim + (16, 1)))
        axis = self.constant(np.zeros((), np.int16))
        return coreai.LutToDenseOp(places, lut, axis, loc=self._location).result


def inline(op: Any) -> None:
    """Move the numbers of a constant that stays from a resource, whose name the library draws at random, into it."""
    from coreai._compiler.ir import DenseElementsAttr

    kind = op.result.type
    dtype = _NUMPY.get(str(getattr(kind, "element_type", "")))
    if dtype and not isinstance(op.attributes["value"], DenseElementsAttr) and kind.has_static_shape:
        with op.context:
            op.attributes["value"] = _inline(_bytes_of(op).view(dtype).reshape(tuple(kind.shape)), kind)


def _inline(values: np.ndarray, kind: Any) -> Any:
    from coreai._compiler.ir import DenseElementsAttr

    data = np.ascontiguousarray(values)
    return DenseElementsAttr.get(data) if data.dtype.kind == "f" else DenseElementsAttr.get(data, type=kind)


def _resource(kind: Any, packed: np.ndarray | None) -> Any:
    """A resource under a name of ours; within one program MLIR counts on from it: indices, indices_1, …"""
    from coreai._compiler.ir import DenseResourceElementsAttr

    return DenseResourceElementsAttr.get_from_buffer(np.ascontiguousarray(packed), "indices", kind)


def _element(dtype: np.dtype[Any]) -> Any:
    from coreai._compiler.ir import F16Type, F32Type, IntegerType

    if dtype.kind == "f":
        return F16Type.get() if dtype.itemsize == 2 else F32Type.get()
    return IntegerType.get_signed(8 * dtype.itemsize)


def _scalar(element: Any, value: Any) -> Any:
    from coreai._compiler.ir import FloatAttr, IntegerAttr, IntegerType

    is_integer = isinstance(element, IntegerType)
    return IntegerAttr.get(element, int(value)) if is_integer else FloatAttr.get(element, float(value))
