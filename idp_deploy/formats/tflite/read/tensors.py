"""The constants of a .tflite file: dense bytes, or axes of which some are compressed (CSR), with or without blocks.

Sparse tensors are decoded here level by level from the definition in the schema (`SparsityParameters`): walking the
axes in traversal order, a dense axis multiplies the open positions by its extent, a CSR axis replaces each by the
indices listed in its segment; block axes follow and refine the coordinate of the axis they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from idp_deploy.formats.flatbuffer import Flatbuffer, Table
from idp_deploy.formats.tflite.read.schema import TYPES

_INDEX_TYPES = {1: "i4", 2: "u2", 3: "u1"}
_MAX_RANK = 16
_FREE_ENTRIES = 1 << 20  # a decoded tensor may have this many entries, and _ENTRIES_A_BYTE more for each byte stored
_ENTRIES_A_BYTE = 512


@dataclass(frozen=True)
class Level:
    """One axis in traversal order: dense of an extent, or compressed."""

    extent: int
    segments: np.ndarray | None = None
    indices: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Sparsity:
    """How the stored values of a tensor are placed."""

    order: tuple[int, ...]
    blocks: tuple[int, ...]  # the axis each block axis refines
    levels: tuple[Level, ...]

    @property
    def size_bytes(self) -> int:
        """Segments and indices."""
        return sum(
            level.segments.nbytes + level.indices.nbytes
            for level in self.levels
            if level.segments is not None and level.indices is not None
        )


def shape_of(tensor: Table) -> tuple[int, ...]:
    """Extents; those of the signature (−1 where free) where it has them."""
    shape, signature = tensor.integers(0), tensor.integers(7)
    if len(shape) > _MAX_RANK:
        raise tensor.buffer.broken(f"a tensor with {len(shape)} axes")
    return tuple(signature if len(signature) == len(shape) else shape)


def data_of(file: Flatbuffer, buffer: Table) -> np.ndarray | None:
    """The bytes of a buffer, inside or behind the flatbuffer; None where it is empty."""
    offset, size = buffer.number(1, "Q"), buffer.number(2, "Q")
    data = file.view("u1", offset, size) if offset > 1 else buffer.array(0, "u1")
    return data if data is not None and len(data) else None


def sparsity_of(file: Flatbuffer, table: Table, shape: tuple[int, ...]) -> Sparsity:
    """The placement, checked: everything it decodes to lies inside of `shape`."""
    order, blocks = tuple(table.integers(0)), tuple(table.integers(1))
    dimensions, rank = table.tables(2), len(shape)
    if sorted(order[:rank]) != list(range(rank)) or sorted(order) != list(range(rank + len(blocks))):
        raise file.broken(f"traversal order {list(order)} of a sparse tensor with {rank} axes")
    if len(dimensions) != len(order) or any(not 0 <= axis < rank for axis in blocks) or len(set(blocks)) < len(blocks):
        raise file.broken("the dimensions of a sparse tensor do not fit its shape")
    levels = [_level(file, dimension) for dimension in dimensions]
    extents = list(shape)
    for position, axis in enumerate(order):
        if axis >= rank:
            size, refined = levels[position].extent, blocks[axis - rank]
            if levels[position].indices is not None or size < 1 or extents[refined] % size:
                raise file.broken(f"a block of {size} on an axis of {extents[refined]}")
            extents[refined] //= size
    rows = 1
    for level, axis in zip(levels, order, strict=True):
        if level.segments is None or level.indices is None:
            if axis < rank and level.extent != extents[axis]:
                raise file.broken(f"a dense axis of {level.extent} where the tensor has {extents[axis]}")
            rows *= level.extent
            continue
        segments, indices = level.segments, level.indices
        if len(segments) != rows + 1 or segments[0] != 0 or segments[-1] != len(indices):
            raise file.broken(f"{len(segments)} segments over {rows} rows and {len(indices)} indices")
        if (np.diff(segments.astype(np.int64)) < 0).any():
            raise file.broken("segments of a sparse tensor that run backwards")
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= extents[axis]):
            raise file.broken(f"an index outside of an axis of {extents[axis]}")
        rows = len(indices)
    if prod(shape) > _FREE_ENTRIES + _ENTRIES_A_BYTE * len(file.data):
        raise file.broken(f"a sparse tensor of {prod(shape)} entries in {len(file.data)} bytes")
    return Sparsity(order, blocks, tuple(levels))


def stored_entries(sparsity: Sparsity) -> int:
    """How many values are stored."""
    rows = 1
    for level in sparsity.levels:
        rows = len(level.indices) if level.indices is not None else rows * level.extent
    return rows


def place(sparsity: Sparsity, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The dense tensor.

    >>> row = Level(0, np.array([0, 1, 3]), np.array([1, 0, 3]))
    >>> place(Sparsity((0, 1), (), (Level(2), row)), np.array([7, 5, 6]), (2, 4)).tolist()
    [[0, 7, 0, 0], [5, 0, 0, 6]]
    """
    rank = len(shape)
    coordinates: dict[int, np.ndarray] = {axis: np.zeros(1, np.int64) for axis in range(rank)}
    for level, axis in zip(sparsity.levels, sparsity.order, strict=True):
        rows = len(next(iter(coordinates.values()))) if rank else 1
        if level.segments is None or level.indices is None:
            repeats: int | np.ndarray = level.extent
            inner = np.tile(np.arange(level.extent), rows)
        else:
            repeats, inner = np.diff(level.segments.astype(np.int64)), level.indices.astype(np.int64)
        coordinates = {a: np.repeat(c, repeats) for a, c in coordinates.items()}
        if axis < rank:
            coordinates[axis] = inner
        else:
            refined = sparsity.blocks[axis - rank]
            coordinates[refined] = coordinates[refined] * level.extent + inner
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates[a] for a in range(rank))] = values
    return dense


def unpacked(file: Flatbuffer, data: np.ndarray, type_code: int, entries: int) -> np.ndarray:
    """Stored bytes as a flat array of `entries` numbers; narrow integers come several a byte, the low bits first."""
    name, dtype, bits = TYPES[type_code]
    if len(data) * 8 // bits < entries or (bits >= 8 and len(data) != entries * bits // 8):
        raise file.broken(f"{len(data)} bytes for {entries} entries of type {name}")
    if bits < 8:
        parts = [data >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
        flat = np.stack(parts, axis=-1).reshape(-1)[:entries].astype(np.int8)
        return flat if name.startswith("u") else np.where(flat >> bits - 1, flat - (1 << bits), flat).astype(np.int8)
    if name == "bfloat16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data.tobytes() if not data.flags.aligned else data, np.dtype(dtype).newbyteorder("<"))


def _level(file: Flatbuffer, dimension: Table) -> Level:
    if dimension.number(0, "b") == 0:
        extent = dimension.number(1, "i")
        if extent < 0:
            raise file.broken(f"an axis of {extent} entries")
        return Level(extent)
    return Level(0, _indices(file, dimension, 2), _indices(file, dimension, 4))


def _indices(file: Flatbuffer, dimension: Table, field: int) -> np.ndarray:
    kind, holder = dimension.number(field, "B"), dimension.table(field + 1)
    array = holder.array(0, _INDEX_TYPES[kind]) if holder is not None and kind in _INDEX_TYPES else None
    if array is None:
        raise file.broken("a compressed axis without indices")
    return array
