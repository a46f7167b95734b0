"""What running a file looks like in every format: runtime → a session, which takes a call and gives the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, ...]
# The model's flattened inputs in its order and layout (images NCHW) → its outputs, likewise; floats as float32.
Session = Callable[[Arrays], Arrays]


class Sessions(dict[str, Session]):
    """By runtime; `notes` say which of them could not be asked, and why."""

    notes: tuple[str, ...] = ()


def noise(shape: Sequence[Any], dtype: np.dtype, generator: np.random.Generator) -> np.ndarray:
    """Something to time a file on: floats are drawn, indices are zeros, extents that the file leaves open are 1."""
    extents = [extent if isinstance(extent, int) and extent > 0 else 1 for extent in shape]
    if np.issubdtype(dtype, np.floating):
        return generator.standard_normal(extents).astype(dtype)
    return np.zeros(extents, dtype)


def as_float32(array: np.ndarray) -> np.ndarray:
    """Any float as float32, other numbers as they are."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def first_line(error: BaseException) -> str:
    """What a runtime complains of, without the pages that may follow."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
