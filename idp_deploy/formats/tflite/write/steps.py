"""steps: operators of recurrent steps in a TFLite object model, with the first state a constant."""

from __future__ import annotations

from typing import Any

import numpy as np

from idp_deploy.formats.tflite.write.graph import add_buffer, operator, schema


class Steps:
    """Operators in the order they are asked for, with a tensor of the main subgraph for each result.

    A state that begins as zeros is a constant to the file, and kernels want no constant as the input of a layer: what
    follows from zeros alone is a constant again.
    """

    def __init__(self, model: Any) -> None:
        self.operators: list[Any] = []
        self._model = model
        self._tensors = model.subgraphs[0].tensors
        self._axes: dict[int, int] = {}

    def of(self, name: str, *operands: int) -> int:
        """An operator entry by entry, on tensors of one shape."""
        return self._add(name, list(operands), [self._shape(operands[0])])[0]

    def linear(self, x: int, weight: int, bias: int | None) -> int:
        """W·x + b: (batch, in) → (batch, out)."""
        (batch, _), (outputs, _) = self._shape(x), self._shape(weight)
        if self._is_zero(x):
            added = self._values(bias) if bias is not None else np.float32(0)
            if added is not None:
                return self._constant(np.broadcast_to(added, (batch, outputs)).astype(np.float32))
        return self._add("FULLY_CONNECTED", [x, weight, -1 if bias is None else bias], [(batch, outputs)])[0]

    def split(self, x: int, parts: int) -> list[int]:
        """Equal parts of the last axis."""
        shape = self._shape(x)
        known = self._values(x)
        if known is not None:
            return [self._constant(np.ascontiguousarray(part)) for part in np.split(known, parts, -1)]
        results = [(*shape[:-1], shape[-1] // parts)] * parts
        return self._add("SPLIT", [self._axis(len(shape) - 1), x], results, numSplits=parts)

    def unstack(self, x: int) -> list[int]:
        """The entries of the first axis."""
        count, *shape = self._shape(x)
        return self._add("UNPACK", [x], [tuple(shape)] * count, num=count, axis=0)

    def stack(self, parts: list[int], result: int) -> None:
        """All along a new first axis."""
        op = operator(self._model, "PACK", parts, [result])
        op.builtinOptions.valuesCount, op.builtinOptions.axis = len(parts), 0
        self.operators.append(op)

    def same(self, x: int, result: int) -> None:
        """What was computed, under the name that others know."""
        shape = self._constant(np.array(self._shape(result), np.int32))
        self.operators.append(operator(self._model, "RESHAPE", [x, shape], [result]))
        self.operators[-1].builtinOptions.newShape = list(self._shape(result))

    def _add(self, name: str, inputs: list[int], shapes: list[tuple[int, ...]], **options: int) -> list[int]:
        results = [self._tensor(shape, "FLOAT32") for shape in shapes]
        self.operators.append(operator(self._model, name, inputs, results))
        for option, value in options.items():
            setattr(self.operators[-1].builtinOptions, option, value)
        return results

    def _tensor(self, shape: tuple[int, ...], type_name: str, values: np.ndarray | None = None) -> int:
        tensor = schema().TensorT()
        tensor.shape, tensor.hasRank, tensor.type = list(shape), True, getattr(schema().TensorType, type_name)
        tensor.buffer = 0 if values is None else add_buffer(self._model, values)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _constant(self, values: np.ndarray) -> int:
        return self._tensor(values.shape, {"f": "FLOAT32", "i": "INT32"}[values.dtype.kind], values)

    def _axis(self, axis: int) -> int:
        if axis not in self._axes:
            self._axes[axis] = self._tensor((), "INT32", np.array(axis, np.int32))
        return self._axes[axis]

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self._tensors[tensor].shape)

    def _is_zero(self, tensor: int) -> bool:
        known = self._values(tensor)
        return known is not None and not known.any()

    def _values(self, tensor: int) -> np.ndarray | None:
        data = self._model.buffers[self._tensors[tensor].buffer].data
        if data is None or not len(data):
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(self._shape(tensor))
