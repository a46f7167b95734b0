"""The weight file without its small change: short tensors move into the program, the rest stay in one blob.

A record of weight.bin takes a header of 64 bytes, its data are padded to 64, and the program refers to it in some 40
more. A tensor of a few hundred bytes is cheaper written into the program, where Core ML programs keep their integers
anyway. Format: coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

INLINE_BYTES = 1024  # beyond this the share of header and padding no longer matters
_ALIGNMENT = 64
_RECORD = struct.Struct("<IIQQ")
_FLOAT32 = 11
_BYTES = {10, 21, 31}  # float16, int8, uint8 of MIL.proto's DataType: written into the program as bytes


def inline_small(spec: Any, blob: bytes) -> bytes:
    """Move short tensors of every function into the program, in place; returns the new weight file, b"" if none."""
    out = bytearray(_ALIGNMENT)
    moved: dict[int, int] = {}  # old offset → new, since tied weights share a record
    for value in _blob_values(spec):
        offset = value.blobFileValue.offset
        _, kind, size, start = _RECORD.unpack_from(blob, offset)
        data = blob[start : start + size]
        dtype = value.type.tensorType.dataType
        if size <= INLINE_BYTES and dtype in _BYTES:
            value.immediateValue.tensor.bytes.values = data
            continue
        if size <= INLINE_BYTES and dtype == _FLOAT32:
            value.immediateValue.tensor.floats.values.extend(struct.unpack(f"<{size // 4}f", data))
            continue
        if offset not in moved:
            out += bytes(-len(out) % _ALIGNMENT)
            moved[offset] = len(out)
            record = bytearray(blob[offset : offset + _ALIGNMENT])
            _RECORD.pack_into(record, 0, 0xDEADBEEF, kind, size, len(out) + _ALIGNMENT)
            out += record + data
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
