"""Which initializer holds which parameter: names do not survive conversion, contents do.

A converter may rename a weight, add an axis to it, or store the transposed copy that a matrix product wants. Equal
tensors are interchangeable, so a tie between them is no ambiguity: each initializer takes all parameters it equals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from idp_deploy.capturing import Captured


@dataclass(frozen=True, eq=False)
class Match:
    """One initializer's parameters."""

    parameters: tuple[str, ...]
    transposed: bool  # the initializer is parameter.T
    nonzero: np.ndarray  # in the initializer's layout

    def kept(self, masks: Mapping[str, np.ndarray], values: np.ndarray) -> np.ndarray:
        """Which of the initializer's `values` are stored: what the masks keep, without any what is not zero.

        Where several masks meet on one tensor an entry is stored if any keeps it.
        """
        mine = [masks[name] for name in self.parameters if name in masks]
        if not mine:
            return self.nonzero | (values != 0)  # a weight that integers round to zero was kept
        return reduce(np.logical_or, map(self.lay_out, mine))  # each may be of a shape of its own

    def lay_out(self, array: np.ndarray) -> np.ndarray:
        """An array of the parameter's shape, its mask say, as the initializer lies."""
        return (array.T if self.transposed else array).reshape(self.nonzero.shape)


@dataclass(frozen=True)
class Copy:
    """An initializer that repeats an earlier one, maybe transposed: it need not be stored again."""

    of: str
    transposed: bool


def match(captured: Captured, tensors: Mapping[str, np.ndarray]) -> dict[str, Match]:
    """A `Match` for each tensor, without parameters where nothing equals it.

    A parameter that occurs under its own name is matched by name first, the others by content in C order, then by
    the content of their transposed.
    """
    alike: dict[_Signs, list[_Twins]] = {}
    for name in (*captured.module.state_dict(), *captured.aliases):
        values = captured.weight(name)
        group = alike.setdefault(_signs(values), [])
        known = next((t for t in group if t.values.shape == values.shape and _equal(t.values, values)), None)
        if known is None:
            group.append(_Twins(values, [name]))
        else:
            known.names.append(name)
    matches = {}
    for name, values in tensors.items():
        candidates = alike.get(_signs(values), [])
        as_they_are = [twins for twins in candidates if _equal(twins.values, values)]
        matrices = [twins for twins in candidates if twins.values.ndim == 2 and min(twins.values.shape) > 1]
        found = as_they_are or [twins for twins in matrices if _equal(twins.values.T, values)]
        ranked = tuple(sorted((n for twins in found for n in twins.names), key=lambda p: (p != name, p)))
        matches[name] = Match(ranked, bool(found) and not as_they_are, values != 0)
    return matches


def copies(tensors: Mapping[str, np.ndarray]) -> dict[str, Copy]:
    """Those of `tensors` that repeat an earlier one, as they are or transposed."""
    seen: dict[_Signs, list[str]] = {}
    found = {}
    for name, values in tensors.items():
        earlier = seen.setdefault(_signs(values), [])
        for first in earlier:
            whole = tensors[first]
            same = whole.shape == values.shape and _equal(whole, values)
            if same or (whole.ndim == 2 and whole.T.shape == values.shape and _equal(whole.T, values)):
                found[name] = Copy(first, not same)
                break
        else:
            earlier.append(name)
    return found


@dataclass(frozen=True)
class _Twins:
    """Parameters that are equal to the last bit and of one shape."""

    values: np.ndarray
    names: list[str]


_Signs = tuple[str, int, int]


def _signs(values: np.ndarray) -> _Signs:
    """What equal tensors, transposed or not, have in common and others do not: dtype, size, the sum of all words.

    Numbers that agree in these are compared entry by entry; sum and comparison take a fifth of a digest.
    """
    return values.dtype.str, values.size, int(_words(values).sum(dtype=np.uint64))


def _equal(values: np.ndarray, others: np.ndarray) -> bool:
    """To the last bit, in C order; the shape is left out, for converters add axes of extent 1."""
    return bool((_words(values) == _words(others)).all())


def _words(values: np.ndarray) -> np.ndarray:
    """The entries as numbers without a sign, in C order."""
    whole = np.ascontiguousarray(values).reshape(-1)
    return whole.view(f"u{min(whole.itemsize, 8)}")
