"""sparse: which compressed layout of a weight takes the fewest bytes in a TFLite file, and its arrays.

TFLite describes a sparse tensor by a traversal order of its axes, each DENSE or SPARSE_CSR, optionally followed by
dense blocks. A CSR axis stores, below every entry of the axes before it, `segments` (where its entries begin) and
`indices` (which they are), each in the smallest of uint8, uint16 and int32. The DENSIFY operator of every TFLite
release expands all of these (tensorflow/lite/kernels/internal/utils/sparsity_format_converter.cc), so the layout is
free to be the smallest. For a 2×4 weight compressed along its second axis:

    [[0, 7, 0, 0],      segments [0, 1, 3]
     [5, 0, 0, 6]]      indices  [1, 0, 3]     values [7, 5, 6]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import permutations
from math import prod
from typing import Any

import numpy as np

OVERHEAD_BYTES = 280  # flatbuffer tables of one sparse tensor, its dense shadow and its DENSIFY operator
BLOCKS = (2, 4, 8, 16)


@dataclass(frozen=True)
class Layout:
    """One way to lay out a sparse tensor.

    `order` visits the axes; its last `compressed` axes are CSR, those before them dense. With `block` = (axis, size)
    the axis counts blocks of that many neighbours, and a stored block holds all of its entries.
    """

    order: tuple[int, ...]
    compressed: int
    block: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a layout: per CSR level (segments, indices), then the values in traversal order."""

    layout: Layout
    levels: tuple[tuple[np.ndarray, np.ndarray], ...]
    values: np.ndarray

    @property
    def size_bytes(self) -> int:
        """Values, segments and indices."""
        return self.values.nbytes + sum(s.nbytes + i.nbytes for s, i in self.levels)


def store(values: np.ndarray, mask: np.ndarray, layout: Layout) -> Stored:
    """Lay `values` out; what `mask` does not keep (and no block covers) is left out.

    >>> stored = store(np.array([[0, 7, 0, 0], [5, 0, 0, 6]], np.int8), np.array([[0, 1, 0, 0], [1, 0, 0, 1]], bool),
    ...                Layout(order=(0, 1), compressed=1))
    >>> [(s.tolist(), i.tolist()) for s, i in stored.levels], stored.values.tolist()
    ([([0, 1, 3], [1, 0, 3])], [7, 5, 6])
    """
    cells = _cells(mask, layout.block).transpose(layout.order)
    leading = len(layout.order) - layout.compressed
    current = cells.reshape(-1, *cells.shape[leading:])
    levels = []
    for _ in range(layout.compressed):
        occupied = current.any(axis=tuple(range(2, current.ndim)))
        segments = np.concatenate([[0], np.cumsum(occupied.sum(axis=1))])
        levels.append((_narrow(segments), _narrow(np.nonzero(occupied)[1])))
        current = current[occupied]
    if layout.block:
        axis, size = layout.block
        shape = values.shape
        split = values.reshape(*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])
        kept = np.moveaxis(split, axis + 1, -1).transpose(*layout.order, len(shape))[cells]
    else:
        kept = values.transpose(layout.order)[cells]
    return Stored(layout, tuple(levels), np.ascontiguousarray(kept).reshape(-1))


def smallest(mask: np.ndarray, value_bytes: int, *, block: int | None = None) -> tuple[Layout, int]:
    """The cheapest layout for `mask` and its bytes (without `OVERHEAD_BYTES`).

    Args:
        block: None weighs single entries and every block size; 1 allows single entries only; n only blocks of n
            along the last axis, falling back to single entries where n does not divide it.

    >>> smallest(np.eye(4, dtype=bool), 4)[0]
    Layout(order=(0, 1), compressed=1, block=None)
    """
    best: tuple[int, Layout] | None = None
    for split in _splits(mask.shape, block):
        cells = _cells(mask, split)
        count = int(np.count_nonzero(cells))
        values = count * value_bytes * (split[1] if split else 1)
        if best and values >= best[0]:
            continue
        for layout, positions in _layouts(cells, count, split):
            if best is None or values + positions < best[0]:
                best = values + positions, layout
    assert best is not None
    return best[1], best[0]


def parameters(stored: Stored, shape: tuple[int, ...]) -> Any:
    """The schema's `SparsityParametersT`."""
    from ai_edge_litert import schema_py_generated as schema

    vectors = {
        np.dtype(np.uint8): (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
        np.dtype(np.uint16): (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
        np.dtype(np.int32): (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
    }
    layout, dimensions = stored.layout, []
    first_compressed = len(shape) - layout.compressed
    for position, axis in enumerate(layout.order):
        dimension = schema.DimensionMetadataT()
        if position < first_compressed:
            dimension.format = schema.DimensionType.DENSE
            dimension.denseSize = shape[axis] // (layout.block[1] if layout.block and layout.block[0] == axis else 1)
        else:
            segments, indices = stored.levels[position - first_compressed]
            dimension.format = schema.DimensionType.SPARSE_CSR
            dimension.arraySegmentsType, holder = vectors[segments.dtype]
            dimension.arraySegments = holder(segments)
            dimension.arrayIndicesType, holder = vectors[indices.dtype]
            dimension.arrayIndices = holder(indices)
        dimensions.append(dimension)
    order = list(layout.order)
    parameters = schema.SparsityParametersT()
    if layout.block:
        inner = schema.DimensionMetadataT()
        inner.format, inner.denseSize = schema.DimensionType.DENSE, layout.block[1]
        dimensions.append(inner)
        order.append(len(shape))
        parameters.blockMap = [layout.block[0]]
    parameters.traversalOrder, parameters.dimMetadata = order, dimensions
    return parameters


def _splits(shape: tuple[int, ...], block: int | None) -> Iterator[tuple[int, int] | None]:
    last = len(shape) - 1
    if block and block > 1 and shape[last] % block == 0:
        yield last, block
        return
    yield None
    if block is None:
        for axis, extent in enumerate(shape):
            yield from ((axis, size) for size in BLOCKS if extent % size == 0)


def _layouts(cells: np.ndarray, count: int, split: tuple[int, int] | None) -> Iterator[tuple[Layout, int]]:
    """Every one- and two-level layout of `cells` with the bytes of its positions."""
    axes = range(cells.ndim)
    wide = [a for a in axes if cells.shape[a] > 1] or [cells.ndim - 1]
    for inner in reversed(wide):
        rows = cells.size // max(cells.shape[inner], 1)
        order = (*(a for a in axes if a != inner), inner)
        yield Layout(order, 1, split), (rows + 1) * _width(count) + count * _width(cells.shape[inner] - 1)
    for outer, inner in permutations(wide, 2):
        entries = int(np.count_nonzero(cells.any(axis=inner)))
        rows = prod(cells.shape[a] for a in axes if a not in (outer, inner))
        order = (*(a for a in axes if a not in (outer, inner)), outer, inner)
        first = (rows + 1) * _width(entries) + entries * _width(cells.shape[outer] - 1)
        second = (entries + 1) * _width(count) + count * _width(cells.shape[inner] - 1)
        yield Layout(order, 2, split), first + second


def _cells(mask: np.ndarray, block: tuple[int, int] | None) -> np.ndarray:
    """Which entries, or which blocks, are stored."""
    if not block:
        return mask
    axis, size = block
    split = mask.reshape(*mask.shape[:axis], mask.shape[axis] // size, size, *mask.shape[axis + 1 :])
    parts = np.moveaxis(split, axis + 1, 0)
    return reduce(np.logical_or, parts)  # any() along so few entries takes many times as long


def _width(largest: int) -> int:
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4


def _narrow(integers: np.ndarray) -> np.ndarray:
    return integers.astype({1: np.uint8, 2: np.uint16, 4: np.int32}[_width(int(integers.max(initial=0)))])
