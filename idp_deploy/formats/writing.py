"""What writing a format comes down to: `convert` makes a `Converted`, slowly and once; `store` makes a `Written` of it,
fast and as often as zeros move. Everything around them is the same for all formats and stands in `exporting`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.flow import Levels
from idp_deploy.formats.notes import Placement


@dataclass(frozen=True, eq=False)
class Converted:
    """A model in a format's own words, with the constants that hold its weights known and not stored yet.

    `source` is what the format's `store` goes on with, and leaves as it is.
    """

    source: Any
    inputs: tuple[str, ...]  # names in the file, in the order of the flattened example inputs
    outputs: tuple[str, ...]  # in the order of the flattened outputs
    tensors: Mapping[str, str]  # parameter → tensor in the file; what a converter computed away has none
    fixed: frozenset[str] = frozenset()  # those of them that stand for more than their parameter: zeros cannot move
    layouts: Mapping[str, str] = field(default_factory=dict)  # input or output → "NHWC" where it is not the model's
    notes: tuple[str, ...] = ()  # what the user would not expect


@dataclass(frozen=True, eq=False)
class Written:
    """A file that is whole but for its place on the disk."""

    save: Callable[[Path], int]  # writes it, atomically; the bytes on the disk
    placed: Mapping[str, Placement]  # by parameter
    notes: tuple[str, ...] = ()


def fewest(dense: Mapping[str, int], sparse: Mapping[str, int], encoding: str, *, zeros: bool) -> str:
    """The way to store a tensor that takes the fewest bytes, among those that `encoding` allows.

    Args:
        dense: way → bytes; empty where no dense way tells the kept entries from the zeros. sparse: the same.
        encoding: auto | dense | sparse. zeros: whether there are any; without them sparse storage is not asked for.

    >>> fewest({"dense": 40}, {"sparse": 9, "sparse+int8": 6}, "auto", zeros=True)
    'sparse+int8'
    """
    if encoding == "dense":
        costs = dict(dense) or {"dense": 0}
    else:
        costs = dict(sparse) if encoding == "sparse" and zeros else {**dense, **sparse}
    return min(costs, key=costs.__getitem__)


def pruned(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`values` with zeros where `mask` keeps nothing; the same array where it has them already.

    >>> pruned(np.array([1.0, 2.0]), np.array([True, False])).tolist()
    [1.0, 0.0]
    """
    # of two truths the first is greater where it alone is true: an eighth of what any(where=) takes
    return np.where(mask, values, values.dtype.type(0)) if (nonzero(values) > mask).any() else values


def nonzero(values: np.ndarray) -> np.ndarray:
    """Where `values` are not 0. Of float16 numpy compares one number at a time, forty times as slowly as their bits.

    >>> nonzero(np.array([0.0, -0.0, 6e-8, np.nan], np.float16)).tolist()
    [False, False, True, True]
    """
    return np.asarray((values.view(np.uint16) << 1 if values.dtype == np.float16 else values) != 0)


def laid_out(
    levels: Levels, lay_out: Callable[[np.ndarray], np.ndarray], values: np.ndarray, kept: np.ndarray
) -> Levels | None:
    """A weight's levels as a file's constant lies; None where the constant no longer is what they mean.

    Args:
        lay_out: brings an array of the weight's shape into the constant's.
        values: the constant. kept: what of it is stored.

    >>> levels = Levels(np.array([[1, 2], [0, -4]], np.int8), np.array([[0.5], [2.0]], np.float32))
    >>> found = laid_out(levels, np.transpose, np.array([[0.5, 0.0], [1.0, -8.0]]), np.array([[1, 0], [1, 1]], bool))
    >>> found.q.tolist(), found.scale.tolist()
    ([[1, 0], [2, -4]], [[0.5, 2.0]])
    """
    q = np.where(kept, lay_out(levels.q), levels.q.dtype.type(0))
    scale = levels.scale
    if scale is not None:
        scale = lay_out(np.broadcast_to(scale, levels.q.shape))
        for axis in range(scale.ndim):
            first = scale.take([0], axis)
            scale = first if (scale == first).all() else scale
    found = Levels(q, scale, levels.palette)
    return found if means(found, values) else None


def means(levels: Levels, values: np.ndarray) -> bool:
    """Whether `levels` are `values`, up to the rounding of a folded batch norm, or of float16 where these are such."""
    relative, absolute = (2.0**-10, 2.0**-24) if values.dtype == np.float16 else (1e-5, 0.0)
    return bool(np.allclose(levels.values, values, rtol=relative, atol=absolute))
