"""A bounds-checked view of a flatbuffer: tables, vectors and strings, for files nobody vouches for.

A flatbuffer is relative offsets all the way down (https://flatbuffers.dev/internals). Every read checks that it stays
inside of the file, and a budget in proportion to the file bounds all reads together, so that offsets which point
again and again at the same place end in `FileError`, not in hours or gigabytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.errors import FileError

_BASE_BUDGET = 1 << 14
_MAX_STRING = 1 << 16


class Flatbuffer:
    """The bytes of a file and what may still be read of them."""

    def __init__(self, data: bytes, path: Path, kind: str) -> None:
        self.data, self.path, self.kind = data, path, kind
        self._budget = _BASE_BUDGET + len(data)

    def broken(self, why: str) -> FileError:
        """The error to raise."""
        return FileError(f"{self.path} is not a valid {self.kind} file: {why}", way_out="write or download it again")

    def charge(self, amount: int) -> None:
        """Take from the budget."""
        self._budget -= amount
        if self._budget < 0:
            raise self.broken("it refers to the same data over and over")

    def scalar(self, code: str, at: int) -> Any:
        """One little-endian number of a `struct` format."""
        if at < 0:
            raise self.broken(f"an offset points before its start ({at})")
        try:
            return struct.unpack_from("<" + code, self.data, at)[0]
        except struct.error:
            raise self.broken(f"truncated: it has {len(self.data)} bytes and refers to byte {at}") from None

    def view(self, dtype: str, at: int, count: int) -> np.ndarray:
        """`count` entries as a read-only array over the file's own bytes."""
        end = at + count * np.dtype(dtype).itemsize
        if at < 0 or count < 0 or end > len(self.data):
            raise self.broken(f"truncated: it has {len(self.data)} bytes and a vector reaches to byte {end}")
        return np.frombuffer(self.data, np.dtype(dtype).newbyteorder("<"), count, at)

    def root(self) -> Table:
        """The first table."""
        return Table(self, self.scalar("I", 0))


@dataclass(frozen=True)
class Table:
    """One table; fields are addressed by their number in the schema, and absent ones give the default."""

    buffer: Flatbuffer
    at: int

    def __post_init__(self) -> None:
        self.buffer.charge(4)

    def _field(self, number: int) -> int:
        """Where the field lies, or 0."""
        vtable = self.at - self.buffer.scalar("i", self.at)
        if 4 + 2 * number >= self.buffer.scalar("H", vtable):
            return 0
        offset = self.buffer.scalar("H", vtable + 4 + 2 * number)
        return self.at + int(offset) if offset else 0

    def _target(self, number: int) -> int:
        at = self._field(number)
        return at + int(self.buffer.scalar("I", at)) if at else 0

    def number(self, number: int, code: str, default: Any = 0) -> Any:
        """A scalar field."""
        at = self._field(number)
        return self.buffer.scalar(code, at) if at else default

    def array(self, number: int, dtype: str) -> np.ndarray | None:
        """A vector of numbers, or None."""
        at = self._target(number)
        return self.buffer.view(dtype, at + 4, int(self.buffer.scalar("I", at))) if at else None

    def integers(self, number: int, dtype: str = "i4") -> list[int]:
        """A short vector as a list; empty where absent."""
        array = self.array(number, dtype)
        if array is None:
            return []
        self.buffer.charge(array.nbytes)
        return [int(n) for n in array]

    def text(self, number: int) -> str:
        """A string; empty where absent."""
        raw = self.array(number, "u1")
        if raw is None:
            return ""
        if len(raw) > _MAX_STRING:
            raise self.buffer.broken(f"a name of {len(raw)} bytes")
        self.buffer.charge(len(raw))
        return raw.tobytes().decode(errors="replace")

    def table(self, number: int) -> Table | None:
        """A table, or None."""
        at = self._target(number)
        return Table(self.buffer, at) if at else None

    def tables(self, number: int) -> list[Table]:
        """A vector of tables; empty where absent."""
        at = self._target(number)
        if not at:
            return []
        offsets = self.buffer.view("u4", at + 4, int(self.buffer.scalar("I", at)))
        self.buffer.charge(offsets.nbytes)
        return [Table(self.buffer, at + 4 + 4 * i + int(offset)) for i, offset in enumerate(offsets)]
