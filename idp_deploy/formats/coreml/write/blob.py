"""The weight file: records read and added, and in the end without its small change, which moves into the program.

A record of weight.bin takes a header of 64 bytes, its data are padded to 64, and the program refers to it in some 40
more. A tensor of a few hundred bytes is cheaper written into the program, where Core ML programs keep their integers
anyway. Format: coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

INLINE_BYTES = 1024  # beyond this the share of header and padding no longer matters
_ALIGNMENT = 64
_RECORD = struct.Struct("<IIQQ")
_UNUSED = struct.Struct("<IIQQQ")  # the same with the bits left over at the end
_SENTINEL = 0xDEADBEEF
_FILE = "@model_path/weights/weight.bin"
FLOATS: dict[int, np.dtype[Any]] = {10: np.dtype("<f2"), 11: np.dtype("<f4")}  # by MIL.proto's DataType
_FLOAT32 = 11
_BYTES = {10, 21, 31}  # float16, int8, uint8: written into the program as bytes
# entries of a blob: MIL.proto's DataType, bits, StorageFormat.hpp's BlobDataType
_KINDS = {"float16": (10, 16, 1), "float32": (11, 32, 2), "int8": (21, 8, 4), "uint8": (31, 8, 3)}
_KINDS |= {"uint1": (37, 1, 9), "uint4": (35, 4, 11)}


def value_of(op: Any, blob: bytes) -> np.ndarray:
    """The entries of a float constant, wherever they lie."""
    value = op.attributes["val"]
    kind = value.type.tensorType
    dtype, shape = FLOATS[kind.dataType], [dimension.constant.size for dimension in kind.dimensions]
    if value.WhichOneof("value") == "blobFileValue":
        _, _, size, start = _RECORD.unpack_from(blob, value.blobFileValue.offset)
        return np.frombuffer(blob, dtype, size // dtype.itemsize, start).reshape(shape)
    tensor = value.immediateValue.tensor
    if tensor.WhichOneof("value") == "bytes":
        return np.frombuffer(tensor.bytes.values, dtype).reshape(shape)
    return np.array(tensor.floats.values, dtype).reshape(shape)


class Records:
    """A weight file that grows; what nothing refers to in the end is left out by `inline_small`."""

    def __init__(self, blob: bytes) -> None:
        self._first = blob or bytes(_ALIGNMENT)
        self._added = bytearray(-len(self._first) % _ALIGNMENT)

    def record(self, offset: int) -> tuple[int, bytearray, memoryview]:
        """(the kind of its entries, the header, the data) of the record that begins at `offset`."""
        start = len(self._first)
        part, start = (self._first, 0) if offset < start else (self._added, start)
        _, kind, size, data = _RECORD.unpack_from(part, offset - start)
        whole = memoryview(part)
        header = bytearray(whole[offset - start : offset - start + _ALIGNMENT])
        return kind, header, whole[data - start : data - start + size]

    def value(self, entries: np.ndarray, kind: str, shape: Sequence[int]) -> Any:
        """Add `entries`, unsigned ones of less than a byte packed from the lowest bit on; the Value that holds them.

        Args:
            kind: float16, float32, int8, uint8, uint4 or uint1.
        """
        from coremltools.proto import MIL_pb2

        type_code, bits, blob_code = _KINDS[kind]
        value = MIL_pb2.Value(type=tensor_type(type_code, shape))
        flat = np.ascontiguousarray(entries).reshape(-1)
        if bits == 1:
            flat = np.packbits(flat, bitorder="little")
        elif bits < 8:
            planes = (flat[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
            flat = np.packbits(planes.astype(np.uint8), bitorder="little")
        self._added += bytes(-len(self._added) % _ALIGNMENT)
        offset = len(self._first) + len(self._added)
        value.blobFileValue.fileName, value.blobFileValue.offset = _FILE, offset
        record = bytearray(_ALIGNMENT)
        unused = flat.nbytes * 8 - entries.size * bits
        _UNUSED.pack_into(record, 0, _SENTINEL, blob_code, flat.nbytes, offset + _ALIGNMENT, unused)
        self._added += record
        self._added += flat.view(np.uint8).data
        return value


def tensor_type(type_code: int, shape: Sequence[int]) -> Any:
    """A ValueType of MIL.proto."""
    from coremltools.proto import MIL_pb2

    made = MIL_pb2.ValueType()
    made.tensorType.dataType, made.tensorType.rank = type_code, len(shape)
    for extent in shape:
        made.tensorType.dimensions.add().constant.size = extent
    return made


def inline_small(spec: Any, records: Records) -> bytes:
    """Move short tensors of every function into the program, in place; returns the new weight file, b"" if none."""
    out = bytearray(_ALIGNMENT)
    moved: dict[int, int] = {}  # old offset → new, since tied weights share a record
    for value in _blob_values(spec):
        offset = value.blobFileValue.offset
        kind, record, data = records.record(offset)
        size, dtype = len(data), value.type.tensorType.dataType
        if size <= INLINE_BYTES and dtype in _BYTES:
            value.immediateValue.tensor.bytes.values = bytes(data)
            continue
        if size <= INLINE_BYTES and dtype == _FLOAT32:
            value.immediateValue.tensor.floats.values.extend(struct.unpack(f"<{size // 4}f", data))
            continue
        if offset not in moved:
            out += bytes(-len(out) % _ALIGNMENT)
            moved[offset] = len(out)
            _RECORD.pack_into(record, 0, _SENTINEL, kind, size, len(out) + _ALIGNMENT)
            out += record
            out += data
        value.blobFileValue.offset = moved[offset]
    struct.pack_into("<II", out, 0, len(moved), 2)
    return bytes(out) if moved else b""


def _blob_values(spec: Any) -> Iterator[Any]:
    for function in spec.mlProgram.functions.values():
        blocks = list(function.block_specializations.values())
        while blocks:
            for op in blocks.pop(0).operations:
                blocks.extend(op.blocks)
                # map fields have no order of their own: sorted, so that the same model gives the same file
                values = [op.attributes[key] for key in sorted(op.attributes)]
                for key in sorted(op.inputs):
                    values += [a.value for a in op.inputs[key].arguments if a.WhichOneof("binding") == "value"]
                yield from (v for v in values if v.WhichOneof("value") == "blobFileValue")
