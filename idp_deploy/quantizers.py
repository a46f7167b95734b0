"""Weight quantizers in pure numpy: symmetric int8 per channel and a palette, both with exact zeros.

`quantize` and every exporter use these same functions, so a weight that was quantized once is quantized again to the
same integers, also after batch norm folding has multiplied its channels by a factor:

>>> w = np.array([[0.5, 0.0, -1.0], [0.0, 0.0, 0.0]], np.float32)
>>> q, scale = quantize_int8(w, axis=0)
>>> q
array([[  64,    0, -127],
       [   0,    0,    0]], dtype=int8)
>>> again, _ = quantize_int8(dequantize_int8(q, scale, axis=0) * np.float32(-3.0), axis=0)
>>> bool((again == -q).all())
True
"""

from __future__ import annotations

import math

import numpy as np

from idp_deploy.errors import ConversionError, UsageError

INT8_LEVELS = 127  # symmetric: −127 … 127, so that negation never leaves the range
FEWEST_VALUES = 4  # zero, the two ends, and one between
_LLOYD_ROUNDS = 64
_GROUPS = 256


def quantize_int8(w: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Round to symmetric integers, one scale a channel: q = round(w / scale), scale = max |w| / 127.

    Zero stays zero. A channel without a non-zero value has scale 1.0, since a scale near zero saturates the integer
    bias that runtimes derive from it.

    Args:
        w: float weights of any rank ≥ 1.
        axis: the channel axis, usually the output axis.

    Returns:
        (integers of `w`'s shape in int8, scales of shape (channels,) in float32).

    Raises:
        ConversionError: a value is infinite or not a number.
    """
    values = _finite(w)
    largest = np.abs(values).max(axis=_others(values.ndim, axis), initial=0.0)
    scale = np.maximum(largest / INT8_LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
    scale[largest == 0.0] = 1.0
    q = np.rint(values / _along(scale, values.ndim, axis))
    return np.clip(q, -INT8_LEVELS, INT8_LEVELS).astype(np.int8), scale


def dequantize_int8(q: np.ndarray, scale: np.ndarray, axis: int = 0) -> np.ndarray:
    """q · scale in float32, the scale applied along `axis`; infinite where that is beyond float32."""
    with np.errstate(over="ignore"):
        return q.astype(np.float32) * _along(scale, q.ndim, axis).astype(np.float32)


def palettize(w: np.ndarray, mask: np.ndarray | None = None, bits: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Replace every kept value by one of 2^bits − 1 others; entry 0 of the palette is 0.0 and means "zero".

    The palette is a one-dimensional k-means over the kept values, each weighted by how often it occurs: optimal by
    dynamic programming over at most 512 groups of neighbouring values, then Lloyd's iteration over all of them. Up to
    2^bits − 1 distinct values are stored without loss, so a palettized weight palettizes to itself.

    Args:
        w: float weights of any shape.
        mask: True = kept; by default, and in any case only, where `w` is not zero.
        bits: 1 … 8.

    Returns:
        (indices of `w`'s shape in uint8, palette of shape (2^bits,) in float32; unused entries repeat the last).

    Raises:
        ConversionError: a value is infinite or not a number.

    >>> indices, lut = palettize(np.array([0.0, 2.0, -1.0, 2.0], np.float32), bits=2)
    >>> indices, lut
    (array([0, 2, 1, 2], dtype=uint8), array([ 0., -1.,  2.,  2.], dtype=float32))
    """
    if not 1 <= bits <= 8:
        raise UsageError(f"a palette of {bits} bits", way_out="choose between 1 and 8")
    values = _finite(w).astype(np.float32)
    kept = values != 0.0 if mask is None else (values != 0.0) & mask
    distinct, inverse, counts = np.unique(values[kept], return_inverse=True, return_counts=True)
    entries = (1 << bits) - 1
    centres = distinct if len(distinct) <= entries else _cluster(distinct.astype(np.float64), counts, entries)
    lut = np.zeros(entries + 1, np.float32)
    indices = np.zeros(values.shape, np.uint8)
    if len(distinct):
        lut[1:] = centres[-1]
        lut[1 : len(centres) + 1] = centres
        indices[kept] = (1 + _nearest(distinct.astype(np.float64), centres))[inverse.reshape(-1)]
    return indices, lut


def restrict(q: np.ndarray, values: int) -> np.ndarray:
    """Replace integers by the nearest of at most `values`; zero stays zero, and so does what every scale follows, ±127.

    The others are means of the integers nearest to them, as in `palettize`. What is restricted already stays as it is.

    Args:
        q: int8, of any shape, as from `quantize_int8`.
        values: 4 … 255.

    >>> restrict(np.array([0, 1, 2, 60, 62, -127], np.int8), 4).tolist()
    [0, 2, 2, 61, 61, -127]
    """
    if not FEWEST_VALUES <= values <= 2 * INT8_LEVELS + 1:
        raise UsageError(
            f"{values} values for the integers of a weight", way_out=f"choose between {FEWEST_VALUES} and 255"
        )
    distinct, inverse, counts = np.unique(q, return_inverse=True, return_counts=True)
    if len(distinct) <= values:
        return q.copy()
    stays = (distinct == 0) | (np.abs(distinct.astype(np.int16)) == INT8_LEVELS)
    free = distinct[~stays].astype(np.float64)
    centres = np.rint(_cluster(free, counts[~stays], values - int(stays.sum())))
    allowed = np.unique(np.concatenate([centres, distinct[stays]]))
    allowed = allowed[allowed != 0]
    near = allowed[_nearest(distinct.astype(np.float64), allowed)].astype(np.int8)
    restricted: np.ndarray = np.where(distinct == 0, np.int8(0), near)[inverse].reshape(q.shape)
    return restricted


def dequantize_palette(indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """lut[indices] in float32."""
    return lut.astype(np.float32)[indices]


def signal_to_noise_db(reference: np.ndarray, quantized: np.ndarray) -> float:
    """10 · log₁₀(Σ reference² / Σ (reference − quantized)²) in decibels, as `decibels` has it.

    >>> signal_to_noise_db(np.array([10.0, 0.0]), np.array([9.0, 0.0]))
    20.0
    """
    exact = reference.astype(np.float64)
    return decibels(float(np.square(exact).sum()), float(np.square(exact - quantized.astype(np.float64)).sum()))


def decibels(signal: float, noise: float) -> float:
    """10 · log₁₀(signal / noise) of two powers; +inf without noise, −inf without a signal or with infinite noise."""
    if noise == 0.0:
        return math.inf
    ratio = signal / noise
    return 10.0 * math.log10(ratio) if ratio > 0.0 else -math.inf


def _cluster(distinct: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """At most k centres of more than k sorted `distinct` values, in float32, ascending, none of them zero."""
    sums = np.stack([counts, counts * distinct, counts * distinct**2]).astype(np.float64)
    mass, moment, square = np.concatenate([np.zeros((3, 1)), np.cumsum(sums, axis=1)], axis=1)
    starts = _optimal_cuts(_groups(distinct), mass, moment, square, k)
    centres = np.diff(moment[starts]) / np.diff(mass[starts])
    for _ in range(_LLOYD_ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(distinct, (centres[1:] + centres[:-1]) / 2), [len(distinct)]])
        members = np.diff(mass[cuts])
        means = np.sort(np.divide(np.diff(moment[cuts]), members, out=centres.copy(), where=members > 0))
        if np.array_equal(means, centres):
            break
        centres = means
    rounded = np.unique(centres.astype(np.float32))
    # A centre amid both signs may rest at zero, which would add zeros: move it to the smallest value there is.
    smallest = distinct[np.argmin(np.abs(distinct))].astype(np.float32)
    return np.unique(np.where(rounded == 0.0, smallest, rounded))


def _groups(distinct: np.ndarray) -> np.ndarray:
    """Where to cut sorted values into groups that stay together: everywhere, or evenly by rank and by value."""
    n = len(distinct)
    if n <= 2 * _GROUPS:
        return np.arange(n + 1)
    by_rank = np.linspace(0, n, _GROUPS + 1).astype(np.int64)
    by_value = np.searchsorted(distinct, np.linspace(distinct[0], distinct[-1], _GROUPS + 1)[1:-1])
    return np.union1d(by_rank, by_value)


def _optimal_cuts(starts: np.ndarray, mass: np.ndarray, moment: np.ndarray, square: np.ndarray, k: int) -> np.ndarray:
    """The k intervals of groups with the least squared error, by dynamic programming; their k + 1 boundaries."""
    m, s, q = (x[None, starts] - x[starts, None] for x in (mass, moment, square))
    later = m > 0
    cost = np.where(later, q - s * s / np.where(later, m, 1.0), np.inf)  # from group i up to group j
    best, choices = cost[0], []
    for _ in range(k - 1):
        total = best[:, None] + cost
        choices.append(total.argmin(axis=0))
        best = total.min(axis=0)
    boundaries = [len(starts) - 1]
    for choice in reversed(choices):
        boundaries.append(int(choice[boundaries[-1]]))
    return starts[[0, *reversed(boundaries)]]


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    middles = (centres[1:].astype(np.float64) + centres[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def _finite(w: np.ndarray) -> np.ndarray:
    values = np.asarray(w, np.float64)
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise ConversionError(
            f"{bad} of {values.size} values are infinite or not a number", way_out="repair or retrain the weight first"
        )
    return values


def _others(rank: int, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(rank) if a != axis % rank)


def _along(scale: np.ndarray, rank: int, axis: int) -> np.ndarray:
    extents = [1] * rank
    extents[axis] = -1
    return scale.astype(np.float64).reshape(extents)
