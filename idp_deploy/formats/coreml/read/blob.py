"""weight.bin, Core ML's blob storage version 2, decoded here rather than by the library that wrote it.

Layout as the public reader and writer define it (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`): a file
header of 64 bytes (count: u32, version: u32 = 2), then records, each on a multiple of 64 bytes:

    sentinel u32 = 0xDEADBEEF | data type u32 | size in bytes u64 | data offset u64 | unused bits at the end u64 | 0…

Numbers are little-endian. Types of less than a byte are packed from the least significant bit on, across bytes.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idp_deploy.errors import FileError

SENTINEL = 0xDEADBEEF
ALIGNMENT = 64
_RECORD = struct.Struct("<IIQQQ")
# StorageFormat.hpp's BlobDataType
_TYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


@dataclass(frozen=True, eq=False)
class Blob:
    """An opened weight file. Records are read on demand."""

    path: Path
    data: bytes | mmap.mmap

    @classmethod
    def open(cls, path: Path) -> Blob:
        """Map the file and check its header.

        Raises:
            FileError: missing, empty, truncated, or another version.
        """
        try:
            with path.open("rb") as handle:
                data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FileError(f"cannot read the weights {path}: {error}", way_out="export the package again") from error
        if len(data) < ALIGNMENT:
            raise FileError(f"{path} has {len(data)} bytes, less than its header", way_out="export the package again")
        version = struct.unpack_from("<I", data, 4)[0]
        if version != 2:
            raise FileError(f"{path} is weight storage version {version}; version 2 is known")
        return cls(path, data)

    def read(self, offset: int, dtype: str, entries: int) -> np.ndarray:
        """The `entries` numbers of the record at `offset`, flat.

        Raises:
            FileError: no record there, another type or size than the program says, or data beyond the file.
        """
        size, start = self._record(offset, dtype)
        if size != packed_bytes(dtype, entries):
            raise FileError(
                f"{self.path}: the record at {offset} holds {size} bytes, {entries} entries of {dtype} take "
                f"{packed_bytes(dtype, entries)}"
            )
        return unpack(self.data[start : start + size], dtype, entries)

    def stored_bytes(self, offset: int, dtype: str) -> int:
        """What the record takes in the file: its header, and its data up to the next record."""
        size, _ = self._record(offset, dtype)
        return ALIGNMENT + -(-size // ALIGNMENT) * ALIGNMENT

    def _record(self, offset: int, dtype: str) -> tuple[int, int]:
        if not 0 <= offset <= len(self.data) - ALIGNMENT:
            raise FileError(f"{self.path}: no record at {offset}, the file has {len(self.data)} bytes")
        sentinel, kind, size, start, _ = _RECORD.unpack_from(self.data, offset)
        if sentinel != SENTINEL:
            raise FileError(f"{self.path}: no record at {offset} (found {sentinel:#x} instead of {SENTINEL:#x})")
        if _TYPES.get(kind) != dtype:
            raise FileError(
                f"{self.path}: the record at {offset} is {_TYPES.get(kind, kind)}, the program says {dtype}"
            )
        if size > len(self.data) or not offset + ALIGNMENT <= start <= len(self.data) - size:
            raise FileError(f"{self.path}: {size} bytes at {start} lie outside the file of {len(self.data)}")
        return size, start


def packed_bytes(dtype: str, entries: int) -> int:
    """Bytes that `entries` numbers take.

    >>> packed_bytes("uint1", 9), packed_bytes("float16", 3)
    (2, 6)
    """
    return (entries * bits_of(dtype) + 7) // 8


def bits_of(dtype: str) -> int:
    """Bits of one entry: "uint4" → 4, "bool" → 8."""
    digits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    if not digits.isdecimal() and dtype != "bool":
        raise FileError(f"entries of type {dtype!r} are no numbers")
    return 8 if dtype == "bool" else int(digits)


def unpack(data: bytes, dtype: str, entries: int) -> np.ndarray:
    """`entries` numbers of `dtype` from packed bytes; less than a byte each becomes int8 or uint8.

    >>> unpack(bytes([0b10_01_11_00]), "uint2", 4)
    array([0, 3, 1, 2], dtype=uint8)
    """
    bits = bits_of(dtype)
    if len(data) != packed_bytes(dtype, entries):
        raise FileError(f"{len(data)} bytes cannot hold {entries} entries of {dtype}")
    if bits >= 8:
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
    ones = np.unpackbits(np.frombuffer(data, np.uint8), count=entries * bits, bitorder="little")
    numbers = np.packbits(ones.reshape(entries, bits), axis=1, bitorder="little").reshape(entries)
    if dtype.startswith("int"):
        return ((numbers ^ (1 << bits - 1)).astype(np.int16) - (1 << bits - 1)).astype(np.int8)
    return numbers
