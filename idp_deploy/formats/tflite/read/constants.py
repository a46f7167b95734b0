"""The constants of a .tflite file as `StoredTensor`s, each listed once however many operators and subgraphs read it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from idp_deploy.flow import StoredTensor
from idp_deploy.formats.flatbuffer import Flatbuffer, Table
from idp_deploy.formats.tflite.read.schema import TYPES
from idp_deploy.formats.tflite.read.tensors import data_of, place, shape_of, sparsity_of, stored_entries, unpacked

_MICRO_HEADER = 16  # bytes
_UNSCALED = (np.empty(0, np.float32), np.empty(0, np.int64), 0)


class Constants:
    """What has been found so far, by name."""

    def __init__(self, file: Flatbuffer, buffers: list[Table]) -> None:
        self.file, self.buffers = file, buffers
        self.found: dict[str, StoredTensor] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._charged: set[int] = set()

    def data(self, tensor: Table) -> np.ndarray | None:
        """The stored bytes, or None for an activation."""
        index = tensor.number(2, "I")
        if index >= len(self.buffers):
            raise self.file.broken(f"buffer {index} of {len(self.buffers)}")
        return data_of(self.file, self.buffers[index]) if index else None

    def argument(self, tensor: Table, largest: int) -> Any:
        """The values of a small integer constant or of a scalar as plain Python, or None for anything else."""
        data, code, shape = self.data(tensor), tensor.number(1, "b"), shape_of(tensor)
        if data is None or code not in TYPES or tensor.table(6) is not None or min(shape, default=1) < 0:
            return None
        name, entries = TYPES[code][0], prod(shape)
        if entries > largest or not (name in ("int32", "int64") or entries == 1):
            return None
        return unpacked(self.file, data, code, entries).reshape(shape).tolist()

    def tensor(self, tensor: Table, name: str) -> str:
        """List a constant; the name it goes by, which is that of an equal tensor over the same bytes, if any."""
        data, code, shape = self.data(tensor), tensor.number(1, "b"), shape_of(tensor)
        assert data is not None
        sparse, buffer = tensor.table(6), tensor.number(2, "I")
        key = (buffer, code, shape, sparse.at if sparse else 0)
        if key in self._known:
            return self._known[key]
        if code not in TYPES:  # strings and resources: bytes nobody computes with
            code, shape, sparse = 3, (len(data),), None
        if min(shape, default=1) < 0:
            raise self.file.broken(f"constant {name!r} with shape {list(shape)}")
        self.found[name] = self._describe(tensor, name, data, code, shape, sparse, first=buffer not in self._charged)
        self._charged.add(buffer)
        self._known[key] = name
        return name

    def is_pruned(self, ancillary: Table) -> bool:
        """Whether a decoder's second input begins as that of a pruned weight: type 2, version 1."""
        data = self.data(ancillary)
        return data is not None and len(data) >= _MICRO_HEADER and data[:2].tobytes() == b"\x02\x01"

    def packed(self, bits: Table, ancillary: Table, meant: Table, name: str) -> str:
        """List a pruned weight of TensorFlow Lite Micro: a bit an entry, then a header and the entries kept."""
        if name in self.found:
            return name
        mask, rest = self.data(bits), self.data(ancillary)
        assert mask is not None
        assert rest is not None
        code, shape = meant.number(1, "b"), shape_of(meant)
        entries = prod(shape)
        if code not in TYPES or min(shape, default=1) < 0 or not 0 <= entries <= 8 * len(mask):
            raise self.file.broken(f"pruned weight {name!r} of shape {list(shape)} in {len(mask)} bytes of mask")
        kept = np.unpackbits(mask, count=entries).astype(bool)
        flat = unpacked(self.file, rest[_MICRO_HEADER:], code, int(kept.sum()))
        scales, zero_points, axis = _scaling(meant, shape)

        def values() -> np.ndarray:
            zero = _along(zero_points, len(shape), axis) if len(zero_points) else 0
            dense = np.broadcast_to(np.asarray(zero, flat.dtype), shape).copy()
            dense[kept.reshape(shape)] = flat
            return dense

        zeros = entries - int(np.count_nonzero(flat != 0))
        dequantize = partial(_dequantized, values, scales, zero_points, axis) if len(scales) else None
        if zero_points.any():
            zeros = int(np.count_nonzero(values() == _along(zero_points, len(shape), axis)))
        size = len(mask) + len(rest) + scales.nbytes + zero_points.nbytes
        dtype, _, width = TYPES[code]
        self.found[name] = StoredTensor(name, shape, dtype, "tflm", size, zeros, values, float(width), dequantize)
        return name

    def _describe(
        self,
        tensor: Table,
        name: str,
        data: np.ndarray,
        code: int,
        shape: tuple[int, ...],
        sparse: Table | None,
        *,
        first: bool,
    ) -> StoredTensor:
        dtype, _, bits = TYPES[code]
        size = len(data) if first else 0
        values: Callable[[], np.ndarray]
        if sparse is not None:
            placement = sparsity_of(self.file, sparse, shape)
            entries = stored_entries(placement)
            flat = unpacked(self.file, data, code, entries)
            values = partial(place, placement, flat, shape)
            encoding = "block" if placement.blocks else "csr"
            size += placement.size_bytes
        else:
            entries = prod(shape)
            flat = unpacked(self.file, data, code, entries)
            values, encoding = flat.reshape(shape).copy, "dense"
        known = tensor.number(1, "b") in TYPES  # bytes of others have no channels
        scales, zero_points, axis = _scaling(tensor, shape) if known else _UNSCALED
        size += scales.nbytes + zero_points.nbytes
        zeros = prod(shape) - int(np.count_nonzero(flat))
        dequantize = None
        if len(scales) and np.dtype(flat.dtype).kind in "iu":
            dequantize = partial(_dequantized, values, scales, zero_points, axis)
            if zero_points.any():
                zeros = int(np.count_nonzero(values() == _along(zero_points, len(shape), axis)))
        return StoredTensor(name, shape, dtype, encoding, size, zeros, values, float(bits), dequantize)


def _scaling(tensor: Table, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Scales and zero points, one or one a channel; empty where the tensor is not quantized."""
    quantization = tensor.table(4)
    scales = quantization.array(2, "f4") if quantization is not None else None
    if quantization is None or scales is None or not len(scales):
        return _UNSCALED
    zero_points, axis = quantization.array(3, "i8"), quantization.number(6, "i")
    if zero_points is None or len(zero_points) != len(scales):
        zero_points = np.resize(zero_points if zero_points is not None and len(zero_points) else [0], len(scales))
    if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
        raise tensor.buffer.broken(f"{len(scales)} scales along axis {axis} of a tensor of shape {list(shape)}")
    return scales, zero_points, axis


def _along(numbers: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return numbers.reshape([-1 if a == axis else 1 for a in range(rank)]) if len(numbers) > 1 else numbers.reshape(-1)


def _dequantized(
    values: Callable[[], np.ndarray], scales: np.ndarray, zero_points: np.ndarray, axis: int
) -> np.ndarray:
    integers = values()
    rank = integers.ndim
    shifted = integers.astype(np.float32) - _along(zero_points, rank, axis).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(shifted * _along(scales, rank, axis), np.float32).reshape(integers.shape)
