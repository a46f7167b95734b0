"""How the entries of a weight tensor are laid out in bytes: encode, decode, exact cost, and the bound below all.

A tensor is read in C order. Its mask says which entries are stored; all others equal `fill` (0 unless an integer
tensor has another zero point). For the row `0 0 7 0 0 0 5 0`:

| kind     | positions                                               | values  |
| -------- | ------------------------------------------------------- | ------- |
| dense    | none                                                    | all 8   |
| bitmask  | one bit an entry, lowest bit first: `44`  | `7 5`   |
| gaps8    | bytes, distance from the last stored entry: `2 4`        | `7 5`   |
| gaps4    | nibbles, zeros to skip before a value: `2 3` → `32`      | `7 5`   |
| csr      | row segments `0 2`, column indices `2 6`                 | `7 5`   |
| block:1x4 | row segments `0 2`, block columns `0 1`                 | blocks  |

A gap above 255 in gaps8 is bridged by fillers: a stored `fill` after each 255 entries. In gaps4 the code 15 skips 15
zeros and stores no value. Everything is exact: NaN payloads survive, −0.0 is kept where a mask keeps it; without a
mask an entry is stored when it differs from `fill`, so NaN is stored and −0.0 becomes 0.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, UsageError

ESCAPE = 15  # the gaps4 code that skips 15 zeros and stores nothing

Parts = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One tensor laid out by one encoding. `parts["values"]` has `dtype`; the other parts are positions."""

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Mapping[str, np.ndarray]
    fill: float = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


@dataclass(frozen=True)
class Encoding:
    """A row of ENCODINGS. `block` is the (rows, columns) of a block encoding, None elsewhere.

    encode(values flat, mask (rows, columns), fill, block) → parts; decode(parts, out flat, (rows, columns), block)
    writes the stored entries into `out`; cost(mask (rows, columns), block) → (position bytes, stored values).
    """

    encode: Callable[[np.ndarray, np.ndarray, float, tuple[int, int]], Parts]
    decode: Callable[[Mapping[str, np.ndarray], np.ndarray, tuple[int, int], tuple[int, int]], None]
    cost: Callable[[np.ndarray, tuple[int, int]], tuple[int, int]]


def encode(kind: str, values: np.ndarray, mask: np.ndarray | None = None, *, fill: float = 0) -> Encoded:
    """Lay out `values` as `kind`.

    Args:
        kind: a key of ENCODINGS; block takes its extents: "block:1x4".
        mask: bool, same shape; True = stored. Default: entries that differ from `fill`.
        fill: what an entry that is not stored decodes to.

    Raises:
        UsageError: unknown kind, or a block that does not divide the matrix (shape[0], rest).
        ConversionError: the mask drops an entry that differs from `fill`, or has another shape.

    Example:
        >>> row = np.array([0, 0, 7, 0, 0, 0, 5, 0], np.int8)
        >>> {name: part.tolist() for name, part in encode("gaps4", row).parts.items()}
        {'codes': [50], 'values': [7, 5]}
        >>> decode(encode("gaps4", row)).tolist()
        [0, 0, 7, 0, 0, 0, 5, 0]
    """
    values = np.asarray(values)
    kept = values != fill if mask is None else np.asarray(mask, bool)
    if kept.shape != values.shape:
        raise ConversionError(f"a mask of shape {kept.shape} cannot select from a tensor of shape {values.shape}")
    if lost := int(np.count_nonzero(values[~kept] != fill)):
        raise ConversionError(f"the mask drops {lost} entries that are not {fill} in a tensor of shape {values.shape}")
    row, block = _row(kind, values.shape)
    parts = row.encode(np.ascontiguousarray(values).reshape(-1), kept.reshape(matrix_shape(values.shape)), fill, block)
    return Encoded(kind, values.shape, values.dtype, parts, fill)


def decode(encoded: Encoded) -> np.ndarray:
    """The tensor that was encoded, bit for bit where its mask kept it, `fill` elsewhere."""
    row, block = _row(encoded.kind, encoded.shape)
    out = np.full(int(np.prod(encoded.shape, dtype=np.int64)), encoded.fill, encoded.dtype)
    row.decode(encoded.parts, out, matrix_shape(encoded.shape), block)
    return out.reshape(encoded.shape)


def size_bytes(kind: str, mask: np.ndarray, value_bits: int = 32) -> int:
    """Exact bytes of `encode(kind, …)` for values of `value_bits`, without encoding; packed where under 8 bits.

    >>> size_bytes("gaps4", np.array([0, 0, 1, 0, 0, 0, 1, 0], bool))
    9
    """
    mask = np.asarray(mask, bool)
    row, block = _row(kind, mask.shape)
    positions, stored = row.cost(mask.reshape(matrix_shape(mask.shape)), block)
    return positions + ceil(stored * value_bits / 8)


def bound_bytes(entries: int, stored: int, value_bits: float) -> float:
    """Bytes that `stored` values among `entries` independent positions need at least.

    bound = (stored · value_bits + entries · H(stored / entries)) / 8, with H(p) = −p·log2(p) − (1−p)·log2(1−p) in bits.

    >>> round(bound_bytes(512 * 512, 26214, 0))
    15368
    """
    p = stored / entries if entries else 0.0
    entropy = -p * log2(p) - (1 - p) * log2(1 - p) if 0 < p < 1 else 0.0
    return (stored * value_bits + entries * entropy) / 8


def smallest(mask: np.ndarray, value_bits: int, kinds: Sequence[str], overhead: Mapping[str, int] | None = None) -> str:
    """The cheapest of `kinds` for this mask, in bytes; "dense" where none of them is smaller than dense.

    Args:
        overhead: bytes a kind costs in the file beside its parts, such as its decode graph; 0 by default.

    >>> smallest(np.array([1, 0] * 8, bool), 32, ("bitmask", "gaps8"))
    'bitmask'
    >>> smallest(np.ones(16, bool), 32, ("bitmask", "gaps8"))
    'dense'
    """
    extra = overhead or {}
    candidates = [kind for kind in ("dense", *kinds) if _fits(kind, np.shape(mask))]
    return min(candidates, key=lambda kind: size_bytes(kind, mask, value_bits) + extra.get(kind, 0))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """How csr and block see a tensor: (first extent, product of the rest); a vector or scalar is one row.

    >>> matrix_shape((32, 3, 3, 3)), matrix_shape((7,)), matrix_shape(())
    ((32, 27), (1, 7), (1, 1))
    """
    if len(shape) < 2:
        return 1, int(np.prod(shape, dtype=np.int64))
    return shape[0], int(np.prod(shape[1:], dtype=np.int64))


def index_type(largest: int) -> np.dtype[Any]:
    """The smallest of uint8, uint16, int32, int64 that holds `largest` (the types sparse TFLite tensors know first)."""
    return next(np.dtype(t) for t in (np.uint8, np.uint16, np.int32, np.int64) if largest <= np.iinfo(t).max)


def _row(kind: str, shape: tuple[int, ...]) -> tuple[Encoding, tuple[int, int]]:
    name, _, extents = kind.partition(":")
    sized = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", extents)
    if name not in ENCODINGS or (name == "block") != bool(sized) or (":" in kind) != bool(sized):
        raise UsageError(f"unknown encoding {kind!r}", way_out=f"one of {', '.join(ENCODINGS)} (block as block:1x4)")
    block = (int(sized[1]), int(sized[2])) if sized else (1, 1)
    rows, columns = matrix_shape(shape)
    if rows % block[0] or columns % block[1]:
        raise UsageError(
            f"a tensor of shape {shape} is a {rows}×{columns} matrix; {kind} does not divide it",
            way_out="use csr, or a block whose extents divide it",
        )
    return ENCODINGS[name], block


def _fits(kind: str, shape: tuple[int, ...]) -> bool:
    try:
        _row(kind, shape)
    except UsageError:
        if kind.startswith("block:"):
            return False
        raise
    return True


# ── dense ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_dense(values: np.ndarray, mask: np.ndarray, fill: float, block: tuple[int, int]) -> Parts:
    return {"values": np.where(mask.reshape(-1), values, np.asarray(fill, values.dtype))}


def _decode_dense(
    parts: Mapping[str, np.ndarray], out: np.ndarray, matrix: tuple[int, int], block: tuple[int, int]
) -> None:
    out[:] = parts["values"]


def _cost_dense(mask: np.ndarray, block: tuple[int, int]) -> tuple[int, int]:
    return 0, mask.size


# ── bitmask ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_bitmask(values: np.ndarray, mask: np.ndarray, fill: float, block: tuple[int, int]) -> Parts:
    flat = mask.reshape(-1)
    return {"bits": np.packbits(flat, bitorder="little"), "values": values[flat]}


def _decode_bitmask(
    parts: Mapping[str, np.ndarray], out: np.ndarray, matrix: tuple[int, int], block: tuple[int, int]
) -> None:
    out[np.unpackbits(parts["bits"], count=out.size, bitorder="little").astype(bool)] = parts["values"]


def _cost_bitmask(mask: np.ndarray, block: tuple[int, int]) -> tuple[int, int]:
    return ceil(mask.size / 8), int(np.count_nonzero(mask))


# ── gaps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gaps(mask: np.ndarray) -> np.ndarray:
    """Distance of each stored entry from the one before; the first counts from position 0: (nnz,) int64."""
    return np.diff(np.flatnonzero(mask), prepend=0)


def _encode_gaps8(values: np.ndarray, mask: np.ndarray, fill: float, block: tuple[int, int]) -> Parts:
    gaps = _gaps(mask)
    fillers = np.maximum(gaps - 1, 0) // 255  # a filler advances 255, and at least 1 remains for the value itself
    last = np.cumsum(fillers + 1) - 1  # where each real entry lands among fillers
    count = int(last[-1]) + 1 if last.size else 0
    stored, distances = np.full(count, fill, values.dtype), np.full(count, 255, np.uint8)
    stored[last], distances[last] = values[mask.reshape(-1)], gaps - 255 * fillers
    return {"gaps": distances, "values": stored}


def _decode_gaps8(
    parts: Mapping[str, np.ndarray], out: np.ndarray, matrix: tuple[int, int], block: tuple[int, int]
) -> None:
    out[np.cumsum(parts["gaps"], dtype=np.int64)] = parts["values"]


def _cost_gaps8(mask: np.ndarray, block: tuple[int, int]) -> tuple[int, int]:
    gaps = _gaps(mask)
    count = int((np.maximum(gaps - 1, 0) // 255).sum()) + gaps.size
    return count, count


def _skips(mask: np.ndarray) -> np.ndarray:
    """Zeros between each stored entry and the one before: (nnz,) int64."""
    return np.diff(np.flatnonzero(mask), prepend=-1) - 1


def _encode_gaps4(values: np.ndarray, mask: np.ndarray, fill: float, block: tuple[int, int]) -> Parts:
    skips = _skips(mask)
    escapes = skips // ESCAPE
    last = np.cumsum(escapes + 1) - 1
    count = int(last[-1]) + 1 if last.size else 0
    codes = np.full(count + count % 2, ESCAPE, np.uint8)  # an odd tail is padded by an escape, which stores nothing
    codes[last] = skips % ESCAPE
    return {"codes": codes[0::2] | codes[1::2] << 4, "values": values[mask.reshape(-1)]}


def _decode_gaps4(
    parts: Mapping[str, np.ndarray], out: np.ndarray, matrix: tuple[int, int], block: tuple[int, int]
) -> None:
    codes = np.stack([parts["codes"] & 15, parts["codes"] >> 4], axis=1).reshape(-1).astype(np.int64)
    stores = codes != ESCAPE
    out[(np.cumsum(codes + stores) - 1)[stores]] = parts["values"]


def _cost_gaps4(mask: np.ndarray, block: tuple[int, int]) -> tuple[int, int]:
    skips = _skips(mask)
    return ceil(int((skips // ESCAPE + 1).sum()) / 2), skips.size


# ── csr and block ───────────────────────────────────────────────────────────────────────────────────────────────────


def _stored_blocks(mask: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """(rows, columns) → (rows / R, columns / C): blocks with at least one stored entry."""
    rows, columns = mask.shape
    split = mask.reshape(rows // block[0], block[0], columns // block[1], block[1])
    return np.logical_or.reduce(split, axis=(1, 3))


def _encode_block(values: np.ndarray, mask: np.ndarray, fill: float, block: tuple[int, int]) -> Parts:
    rows, columns = mask.shape
    stored = _stored_blocks(mask, block)
    kept = np.where(mask, values.reshape(mask.shape), np.asarray(fill, values.dtype))
    blocks = kept.reshape(rows // block[0], block[0], columns // block[1], block[1]).swapaxes(1, 2)
    return {**_segments(stored), "values": blocks[stored].reshape(-1)}


def _segments(stored: np.ndarray) -> Parts:
    """Row r's entries are indices[segments[r] : segments[r + 1]], each a column; both in their smallest type."""
    ends = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    indices = np.nonzero(stored)[1]
    return {
        "segments": ends.astype(index_type(int(ends[-1]))),
        "indices": indices.astype(index_type(int(indices.max(initial=0)))),
    }


def _decode_block(
    parts: Mapping[str, np.ndarray], out: np.ndarray, matrix: tuple[int, int], block: tuple[int, int]
) -> None:
    grid = out.reshape(matrix[0] // block[0], block[0], matrix[1] // block[1], block[1]).swapaxes(1, 2)
    counts: np.ndarray = np.diff(parts["segments"].astype(np.int64))
    row = np.repeat(np.arange(grid.shape[0]), counts)
    grid[row, parts["indices"]] = parts["values"].reshape(-1, *block)


def _cost_block(mask: np.ndarray, block: tuple[int, int]) -> tuple[int, int]:
    stored = _stored_blocks(mask, block)
    return sum(part.nbytes for part in _segments(stored).values()), int(stored.sum()) * block[0] * block[1]


ENCODINGS: dict[str, Encoding] = {
    "dense": Encoding(_encode_dense, _decode_dense, _cost_dense),
    "bitmask": Encoding(_encode_bitmask, _decode_bitmask, _cost_bitmask),
    "gaps8": Encoding(_encode_gaps8, _decode_gaps8, _cost_gaps8),
    "gaps4": Encoding(_encode_gaps4, _decode_gaps4, _cost_gaps4),
    "csr": Encoding(_encode_block, _decode_block, _cost_block),
    "block": Encoding(_encode_block, _decode_block, _cost_block),
}
