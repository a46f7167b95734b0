"""How far results are from those that were wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def error_of(expected: Sequence[np.ndarray], given: Sequence[np.ndarray | None], measure: str = "max") -> float:
    """max |given − expected| / max |expected| over all calls, or the quotient of their root mean squares for "rms".

    Equal infinities agree. Not a number where either side has one; infinite where an output is missing, has another
    shape, or is not zero where all that was expected is.

    >>> error_of([np.array([1.0, -4.0])], [np.array([1.0, -3.0])])
    0.25
    """
    largest, worst, signal, noise = 0.0, 0.0, 0.0, 0.0
    for wanted, got in zip(expected, given, strict=True):
        if got is None or got.shape != wanted.shape:
            return math.inf
        a, b = wanted.astype(np.float64), got.astype(np.float64)
        if np.isnan(a).any() or np.isnan(b).any():
            return math.nan
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
