"""How far results are from those that were wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_FAR = 9e3  # the least that a mask is filled with: -1e4, -65504, -1e9 or the lowest float
_APART = 100.0  # times the largest entry that is none of these


def error_of(expected: Sequence[np.ndarray], given: Sequence[np.ndarray | None], measure: str = "max") -> float:
    """max |given − expected| / max |expected| over all calls, or the quotient of their root mean squares for "rms".

    Equal infinities agree. Not a number where either side has one; infinite where an output is missing, has another
    shape, or is not zero where all that was expected is. Entries that a mask was filled with (`filled_from`) are held
    against themselves, and the others among each other: beside -1e9 any other number would be next to nothing. Names
    of classes are right or infinitely far.

    >>> error_of([np.array([1.0, -4.0])], [np.array([1.0, -3.0])])
    0.25
    """
    pairs = []
    for wanted, got in zip(expected, given, strict=True):
        if got is None or got.shape != wanted.shape:
            return math.inf
        if is_text(wanted) or is_text(got):
            if not np.array_equal(wanted, got):
                return math.inf
            continue
        pairs.append((reals(wanted), reals(got)))
    if any(np.isnan(a).any() or np.isnan(b).any() for a, b in pairs):
        return math.nan
    least = filled_from(expected)
    if math.isinf(least):
        return _error(pairs, measure)
    filled = [(a[part], b[part]) for a, b in pairs for part in [np.abs(a) >= least]]
    others = [(a[part], b[part]) for a, b in pairs for part in [~(np.abs(a) >= least)]]
    return max(_error(filled, measure), error_of([a for a, _ in others], [b for _, b in others], measure))


def is_text(array: np.ndarray) -> bool:
    """Whether its entries are names, not numbers."""
    return array.dtype.kind in "OSU"


def reals(array: np.ndarray) -> np.ndarray:
    """Entries as float64; of complex ones both parts, on an axis behind the others."""
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    return array.astype(np.float64)


def filled_from(outputs: Sequence[np.ndarray]) -> float:
    """The size from which entries are what a mask was filled with, as far as can be: infinite where none are.

    They are of one size but for what they were added to, and far from all others.

    >>> filled_from([np.array([0.5, -1e9]), np.array([2.0, -1e9])]), filled_from([np.array([0.5, 1e9, 2e9])])
    (990000000.0, inf)
    """
    floats = [np.abs(output[np.isfinite(output)]) for output in outputs if output.dtype.kind == "f"]
    if max((float(sizes.max(initial=0.0)) for sizes in floats), default=0.0) < _FAR:
        return math.inf
    sizes = np.unique(np.concatenate([sizes.ravel() for sizes in floats]).astype(np.float64))
    most, others = sizes[-1], sizes[sizes < 0.99 * sizes[-1]]
    near = float(others[-1]) if others.size else 0.0
    return 0.99 * float(most) if 0 < near <= most / _APART else math.inf


def _error(pairs: Sequence[tuple[np.ndarray, np.ndarray]], measure: str) -> float:
    largest, worst, signal, noise = 0.0, 0.0, 0.0, 0.0
    for a, b in pairs:
        differing = a != b  # equal infinities would subtract to NaN
        difference = np.abs(np.subtract(a, b, out=np.zeros_like(a), where=differing))
        size = np.abs(a[np.isfinite(a)])
        largest, worst = max(largest, float(size.max(initial=0.0))), max(worst, float(difference.max(initial=0.0)))
        signal, noise = signal + float(np.square(size).sum()), noise + float(np.square(difference).sum())
    if noise == 0.0:
        return 0.0
    if largest == 0.0:
        return math.inf
    return math.sqrt(noise / signal) if measure == "rms" else worst / largest
