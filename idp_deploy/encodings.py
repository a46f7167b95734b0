"""How the entries of a weight tensor are laid out in bytes: encode, exact cost, and the bound below all.

A tensor is read in C order. Its mask says which entries are stored; all others equal `fill` (0 unless an integer
tensor has another zero point). For the row `0 0 7 0 0 0 5 0`:

| kind     | positions                                               | values  |
| -------- | ------------------------------------------------------- | ------- |
| dense    | none                                                    | all 8   |
| bitmask  | one bit an entry, lowest bit first: `44`  | `7 5`   |
| gaps8    | bytes, distance from the last stored entry: `2 4`        | `7 5`   |
| gaps5    | the same, three in 16 bits to base 40: `1 + 40·1 + 40²·4` → `6441` | `0 7 5` |
| gaps4    | nibbles, zeros to skip before a value: `2 3` → `32`      | `7 5`   |

A gap above 255 in gaps8 (39 in gaps5) is bridged by fillers: a stored `fill` after each 255 entries. The distances of
gaps5 are cut into three runs of equal length, and each 16 bits hold one of each run: they unpack run by run. One or two
more fillers make their number a multiple of three, so that nothing is to be cut off. In gaps4
the code 15 skips 15 zeros and stores no value. Everything is exact: NaN payloads survive, −0.0 is kept where a mask
keeps it; without a mask an entry is stored when it differs from `fill`, so NaN is stored and −0.0 becomes 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, UsageError

BASE = 40  # of a gaps5 distance: 40³ is just below 2¹⁶
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
    """A row: encode(values, mask, fill) → parts; cost(places) → (position bytes, stored values). Arrays are flat."""

    encode: Callable[[np.ndarray, np.ndarray, float], Parts]
    cost: Callable[[Places], tuple[int, int]]


class Places:
    """Where a mask keeps entries, looked for once whatever number of encodings is weighed."""

    def __init__(self, mask: np.ndarray) -> None:
        self._mask = np.asarray(mask, bool).reshape(-1)
        self.entries = self._mask.size
        self._costs: dict[str, tuple[int, int]] = {}

    def cost(self, kind: str) -> tuple[int, int]:
        """(position bytes, stored values) of one encoding, counted once whatever the width of a value."""
        if kind not in self._costs:
            self._costs[kind] = _row(kind).cost(self)
        return self._costs[kind]

    @cached_property
    def stored(self) -> int:
        """How many."""
        return int(np.count_nonzero(self._mask))

    @cached_property
    def skips(self) -> np.ndarray:
        """As `_skips`."""
        return _skips(self._mask)

    @cached_property
    def between(self) -> np.ndarray:
        """Positions that each gap passes over: the skips, but the first gap counts from position 0."""
        return np.concatenate([np.maximum(self.skips[:1] - 1, 0), self.skips[1:]])


def encode(kind: str, values: np.ndarray, mask: np.ndarray | None = None, *, fill: float = 0) -> Encoded:
    """Lay out `values` as `kind`.

    Args:
        kind: a key of ENCODINGS.
        mask: bool, same shape; True = stored. Default: entries that differ from `fill`.
        fill: what an entry that is not stored decodes to.

    Raises:
        UsageError: unknown kind.
        ConversionError: the mask drops an entry that differs from `fill`, or has another shape.

    Example:
        >>> row = np.array([0, 0, 7, 0, 0, 0, 5, 0], np.int8)
        >>> {name: part.tolist() for name, part in encode("gaps4", row).parts.items()}
        {'codes': [50], 'values': [7, 5]}
    """
    values = np.asarray(values)
    kept = values != fill if mask is None else np.asarray(mask, bool)
    if kept.shape != values.shape:
        raise ConversionError(f"a mask of shape {kept.shape} cannot select from a tensor of shape {values.shape}")
    if lost := int(np.count_nonzero((values != fill) > kept)):
        raise ConversionError(f"the mask drops {lost} entries that are not {fill} in a tensor of shape {values.shape}")
    parts = _row(kind).encode(np.ascontiguousarray(values).reshape(-1), kept.reshape(-1), fill)
    return Encoded(kind, values.shape, values.dtype, parts, fill)


def size_bytes(kind: str, mask: np.ndarray | Places, value_bits: int = 32) -> int:
    """Exact bytes of `encode(kind, …)` for values of `value_bits`, without encoding; packed where under 8 bits.

    Args:
        mask: bool, True = stored; as `Places` where several kinds are asked of it.

    >>> size_bytes("gaps4", np.array([0, 0, 1, 0, 0, 0, 1, 0], bool))
    9
    """
    return _bytes(kind, mask if isinstance(mask, Places) else Places(mask), value_bits)


def _bytes(kind: str, places: Places, value_bits: int) -> int:
    positions, stored = places.cost(kind)
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
    extra, places = overhead or {}, Places(mask)
    return min(("dense", *kinds), key=lambda kind: _bytes(kind, places, value_bits) + extra.get(kind, 0))


def _row(kind: str) -> Encoding:
    if kind not in ENCODINGS:
        raise UsageError(f"unknown encoding {kind!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    return ENCODINGS[kind]


# ── dense ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_dense(values: np.ndarray, mask: np.ndarray, fill: float) -> Parts:
    return {"values": np.where(mask, values, np.asarray(fill, values.dtype))}


def _cost_dense(places: Places) -> tuple[int, int]:
    return 0, places.entries


# ── bitmask ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_bitmask(values: np.ndarray, mask: np.ndarray, fill: float) -> Parts:
    return {"bits": np.packbits(mask, bitorder="little"), "values": values[mask]}


def _cost_bitmask(places: Places) -> tuple[int, int]:
    return ceil(places.entries / 8), places.stored


# ── gaps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gaps(mask: np.ndarray) -> np.ndarray:
    """Distance of each stored entry from the one before; the first counts from position 0: (nnz,) int64."""
    return np.diff(np.flatnonzero(mask), prepend=0)


def _bridged(values: np.ndarray, mask: np.ndarray, fill: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """(distances ≤ limit, stored values), both (count,): a filler follows each `limit` entries of a wider gap."""
    gaps = _gaps(mask)
    fillers = np.maximum(gaps - 1, 0) // limit  # a filler advances `limit`, and at least 1 remains for the value itself
    last = np.cumsum(fillers + 1) - 1  # where each real entry lands among fillers
    count = int(last[-1]) + 1 if last.size else 0
    stored, distances = np.full(count, fill, values.dtype), np.full(count, limit, np.uint16)
    stored[last], distances[last] = values[mask], gaps - limit * fillers
    return distances, stored


def _crossings(widths: np.ndarray, limit: int) -> int:
    """How often `limit` goes into each width, in all; of sparse weights few are as wide."""
    return int((widths[widths >= limit] // limit).sum())


def _encode_gaps8(values: np.ndarray, mask: np.ndarray, fill: float) -> Parts:
    distances, stored = _bridged(values, mask, fill, 255)
    return {"gaps": distances.astype(np.uint8), "values": stored}


def _cost_gaps8(places: Places) -> tuple[int, int]:
    count = places.stored + _crossings(places.between, 255)
    return count, count


def _encode_gaps5(values: np.ndarray, mask: np.ndarray, fill: float) -> Parts:
    distances, stored = _bridged(values, mask, fill, BASE - 1)
    wide = np.flatnonzero(distances > 1)[: -distances.size % 3]
    stored = np.insert(stored, wide, np.asarray(fill, values.dtype))
    distances[wide] -= 1
    distances = np.insert(distances, wide + 1, np.uint16(1))
    runs = np.concatenate([distances, np.zeros(-distances.size % 3, np.uint16)]).reshape(3, -1)
    return {"triples": runs[0] + np.uint16(BASE) * runs[1] + np.uint16(BASE**2) * runs[2], "values": stored}


def _cost_gaps5(places: Places) -> tuple[int, int]:
    fillers = _crossings(places.between, BASE - 1)
    wide = fillers + int(np.count_nonzero(places.between % (BASE - 1)))
    count = places.stored + fillers
    count += min(-count % 3, wide)
    return 2 * ceil(count / 3), count


def _skips(mask: np.ndarray) -> np.ndarray:
    """Zeros between each stored entry and the one before: (nnz,) int64."""
    return np.diff(np.flatnonzero(mask), prepend=-1) - 1


def _encode_gaps4(values: np.ndarray, mask: np.ndarray, fill: float) -> Parts:
    skips = _skips(mask)
    escapes = skips // ESCAPE
    last = np.cumsum(escapes + 1) - 1
    count = int(last[-1]) + 1 if last.size else 0
    codes = np.full(count + count % 2, ESCAPE, np.uint8)  # an odd tail is padded by an escape, which stores nothing
    codes[last] = skips % ESCAPE
    return {"codes": codes[0::2] | codes[1::2] << 4, "values": values[mask]}


def _cost_gaps4(places: Places) -> tuple[int, int]:
    return ceil((places.stored + _crossings(places.skips, ESCAPE)) / 2), places.stored


ENCODINGS: dict[str, Encoding] = {
    "dense": Encoding(_encode_dense, _cost_dense),
    "bitmask": Encoding(_encode_bitmask, _cost_bitmask),
    "gaps8": Encoding(_encode_gaps8, _cost_gaps8),
    "gaps5": Encoding(_encode_gaps5, _cost_gaps5),
    "gaps4": Encoding(_encode_gaps4, _cost_gaps4),
}
