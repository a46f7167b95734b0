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
_LLOYD_ROUNDS = 64
_HISTOGRAM_BINS = 1024


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
    """q · scale in float32, the scale applied along `axis`."""
    return q.astype(np.float32) * _along(scale, q.ndim, axis).astype(np.float32)


def palettize(w: np.ndarray, mask: np.ndarray | None = None, bits: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Replace every kept value by one of 2^bits − 1 others; entry 0 of the palette is 0.0 and means "zero".

    The palette comes from one-dimensional k-means over the kept values, weighted by how often each occurs and
    deterministic: centres start where the cube root of the density is cut in equal parts, the spacing that least
    squares approach in the limit of many entries (Panter and Dite, 1951), then move to their means until they rest.
    Up to 2^bits − 1 distinct values are stored without loss, so a palettized weight palettizes to itself.

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


def dequantize_palette(indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """lut[indices] in float32."""
    return lut.astype(np.float32)[indices]


def signal_to_noise_db(reference: np.ndarray, quantized: np.ndarray) -> float:
    """10 · log₁₀(Σ reference² / Σ (reference − quantized)²) in decibels; +inf without noise, −inf without a signal.

    >>> signal_to_noise_db(np.array([10.0, 0.0]), np.array([9.0, 0.0]))
    20.0
    """
    exact = reference.astype(np.float64)
    noise = float(np.square(exact - quantized.astype(np.float64)).sum())
    signal = float(np.square(exact).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _cluster(distinct: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """k centres of sorted `distinct` values in float32, ascending, none of them zero."""
    weight = counts.astype(np.float64)
    mass, moment = (np.concatenate([[0.0], np.cumsum(x)]) for x in (weight, weight * distinct))
    density, edges = np.histogram(distinct, bins=_HISTOGRAM_BINS, weights=weight)
    cumulated = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    centres = np.interp((np.arange(k) + 0.5) / k * cumulated[-1], cumulated, edges)
    for _ in range(_LLOYD_ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(distinct, (centres[1:] + centres[:-1]) / 2), [len(distinct)]])
        members = np.diff(mass[cuts])
        means = np.divide(np.diff(moment[cuts]), members, out=centres.copy(), where=members > 0)
        means.sort()
        if np.array_equal(means, centres):
            break
        centres = means
    rounded = np.unique(centres.astype(np.float32))
    # A centre amid both signs may rest at zero, which would add zeros: move it to the smallest value there is.
    smallest = distinct[np.argmin(np.abs(distinct))].astype(np.float32)
    return np.unique(np.where(rounded == 0.0, smallest, rounded))


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
