"""What the child says of a program, checked before it is believed: the child may have been taken over by the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from idp_deploy.errors import FileError

_MOST_ENTRIES = 1 << 33  # what a shape may promise
_MOST_OPERATORS = 1 << 20
_PACKED = {"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "int2": 2, "int4": 4, "f4E2M1FN": 4}
_SMALL = {  # MLIR's word → that of ml_dtypes, which comes with Apple's libraries
    "f8E4M3FN": "float8_e4m3fn", "f8E5M2": "float8_e5m2", "f8E8M0FNU": "float8_e8m0fnu", "f4E2M1FN": "float4_e2m1fn",
}  # fmt: skip
_PLAIN = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
)  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A value. `shape` is None where it is no tensor; a free extent is −1."""

    id: int
    shape: tuple[int, ...] | None
    dtype: str


@dataclass(frozen=True, eq=False)
class Constant:
    """A value written into the file: packed bytes, or one number for all entries."""

    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None
    splat: float | int | bool | None

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """That one entry takes in the file."""
        return _PACKED.get(self.dtype) or _numpy(self.dtype).itemsize * 8

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file, that of one entry where all are the same."""
        return int(self.data.size) if self.data is not None else math.ceil(self.bits / 8)

    @property
    def values(self) -> np.ndarray:
        """The numbers in their shape; entries narrower than a byte take one. ValueError: a type that numpy lacks."""
        if self.data is None:
            return np.broadcast_to(np.array(self.splat).astype(_wide(self.dtype)), self.shape)
        if self.dtype in _SMALL:
            entries = _unpack(self.data, "uint4", self.size) if self.dtype in _PACKED else self.data
            return entries.view(_small(self.dtype)).astype(np.float32).reshape(self.shape)
        if self.dtype in _PACKED:
            return _unpack(self.data, self.dtype, self.size).reshape(self.shape)
        if self.dtype == "bfloat16":
            return (self.data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        return self.data.view(_numpy(self.dtype)).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Op:
    """One operator; `inside` are those of its bodies, in order."""

    kind: str
    label: str
    operands: tuple[int, ...]
    results: tuple[Typed, ...]
    attributes: Mapping[str, str]
    inside: tuple[Op, ...]
    constant: Constant | None


@dataclass(frozen=True, eq=False)
class Graph:
    """A function: inputs with their names, and the numbers and names of what it returns."""

    name: str
    inputs: tuple[tuple[str, Typed], ...]
    outputs: tuple[tuple[str, int], ...]
    ops: tuple[Op, ...]


def parse(graphs: Sequence[Any], constants: Mapping[str, np.ndarray]) -> tuple[Graph, ...]:
    """The child's plain values as graphs.

    Raises:
        FileError: they are not what `Native.program` returns, or a constant's bytes do not fit its shape.
    """
    parsing = _Parsing(constants)
    try:
        return tuple(parsing.graph(entry) for entry in graphs)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FileError(f"the program is inconsistent: {error}", way_out="export the package again") from error


class _Parsing:
    def __init__(self, constants: Mapping[str, np.ndarray]) -> None:
        self.constants, self.count = constants, 0

    def graph(self, entry: Any) -> Graph:
        return Graph(
            str(entry["name"]),
            tuple((str(value["name"]), self.typed(value)) for value in entry["inputs"]),
            tuple((str(value["name"]), int(value["id"])) for value in entry["outputs"]),
            tuple(self.ops(entry["ops"])),
        )

    def ops(self, entries: Any) -> Iterator[Op]:
        for entry in entries:
            self.count += 1
            if self.count > _MOST_OPERATORS:
                raise ValueError(f"it has over {_MOST_OPERATORS} operators")
            results = tuple(self.typed(value) for value in entry["results"])
            yield Op(
                str(entry["kind"]),
                str(entry["label"]),
                tuple(int(number) for number in entry["operands"]),
                results,
                {str(name): str(text) for name, text in entry["attributes"].items()},
                tuple(self.ops(entry["inside"])),
                self.constant(results[0], entry.get("splat")) if entry["kind"] == "constant" else None,
            )

    def typed(self, value: Any) -> Typed:
        shape = None if value["shape"] is None else tuple(int(extent) for extent in value["shape"])
        if shape is not None and (any(e < -1 for e in shape) or math.prod(map(abs, shape)) > _MOST_ENTRIES):
            raise ValueError(f"a value has the shape {shape}")
        return Typed(int(value["id"]), shape, str(value["dtype"]))

    def constant(self, value: Typed, splat: Any) -> Constant | None:
        if value.shape is None:
            return None
        if min(value.shape, default=0) < 0:
            raise ValueError(f"a constant has the shape {value.shape}")
        data = self.constants.get(str(value.id))
        if (data is None) == (splat is None) or not isinstance(splat, bool | int | float | None):
            raise ValueError("a constant without numbers")
        found = Constant(value.shape, value.dtype, data, splat)
        if data is not None and (data.dtype != np.uint8 or data.size != math.ceil(found.size * found.bits / 8)):
            raise ValueError(f"a constant of shape {value.shape} and type {value.dtype} has {data.size} bytes")
        return found


def _numpy(dtype: str) -> np.dtype[Any]:
    if dtype == "bfloat16":
        return np.dtype("<u2")
    if dtype in _SMALL:
        return np.dtype(np.uint8)
    if dtype not in _PLAIN:
        raise ValueError(f"constants of the type {dtype!r}")
    return np.dtype(dtype)


def _small(dtype: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, _SMALL[dtype]))


def _wide(dtype: str) -> np.dtype[Any]:
    """numpy's type for entries of a packed or unknown one."""
    if dtype == "bfloat16" or dtype in _SMALL:
        return np.dtype(np.float32)
    if dtype in _PACKED:
        return np.dtype(np.uint8 if dtype.startswith("u") else np.int8)
    return _numpy(dtype)


def _unpack(data: np.ndarray, dtype: str, entries: int) -> np.ndarray:
    """Entries of less than a byte, the lowest bits first.

    >>> _unpack(np.array([0b1010_0011], np.uint8), "uint4", 2), _unpack(np.array([0b1111_0001], np.uint8), "int4", 2)
    (array([ 3, 10], dtype=uint8), array([ 1, -1], dtype=int8))
    """
    width = _PACKED[dtype]
    bits = np.unpackbits(data, bitorder="little")[: entries * width].reshape(entries, width)
    numbers = np.packbits(bits, axis=1, bitorder="little")[:, 0] if width > 1 else bits[:, 0]
    if dtype.startswith("u"):
        return numbers
    return np.where(numbers >= 1 << (width - 1), numbers.astype(np.int16) - (1 << width), numbers).astype(np.int8)
