"""Which initializer holds which parameter: names do not survive conversion, contents do.

A converter may rename a weight, add an axis to it, or store the transposed copy that a matrix product wants. Equal
tensors are interchangeable, so a tie between them is no ambiguity: each initializer takes all parameters it equals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
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
        kept: np.ndarray = np.logical_or.reduce(mine)
        return self.lay_out(kept)

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
    alike: dict[_Signs, list[str]] = {}
    for name in (*captured.module.state_dict(), *captured.aliases):
        alike.setdefault(_signs(captured.weight(name)), []).append(name)
    digests: dict[tuple[str, bool], bytes] = {}

    def equals(name: str, digest: bytes, transposed: bool) -> bool:
        values = captured.weight(name)
        if transposed and (values.ndim != 2 or min(values.shape) < 2):
            return False
        if (name, transposed) not in digests:
            digests[name, transposed] = _digest(values.T if transposed else values)
        return digests[name, transposed] == digest

    matches = {}
    for name, values in tensors.items():
        candidates = alike.get(_signs(values), [])
        digest = _digest(values) if candidates else b""
        as_they_are = [one for one in candidates if equals(one, digest, transposed=False)]
        parameters = as_they_are or [one for one in candidates if equals(one, digest, transposed=True)]
        ranked = tuple(sorted(parameters, key=lambda p: (p != name, p)))
        matches[name] = Match(ranked, bool(parameters) and not as_they_are, values != 0)
    return matches


def copies(tensors: Mapping[str, np.ndarray]) -> dict[str, Copy]:
    """Those of `tensors` that repeat an earlier one, as they are or transposed."""
    several = Counter(map(_signs, tensors.values()))
    seen: dict[tuple[tuple[int, ...], bytes], Copy] = {}
    found = {}
    for name, values in tensors.items():
        if several[_signs(values)] == 1:
            continue
        key = (values.shape, _digest(values))
        if key in seen:
            found[name] = seen[key]
            continue
        seen[key] = Copy(name, False)
        if values.ndim == 2:
            seen.setdefault((values.shape[::-1], _digest(values.T)), Copy(name, True))
    return found


_Signs = tuple[str, int, bytes]


def _signs(values: np.ndarray) -> _Signs:
    """What equal tensors, transposed or not, have in common and can be seen at once: dtype, size, both ends."""
    ends = b"".join(values.flat[i].tobytes() for i in (0, -1)) if values.size else b""
    return values.dtype.str, values.size, ends


def _digest(values: np.ndarray) -> bytes:
    """Of dtype and bytes in C order; the shape is left out, for converters add axes of extent 1."""
    whole = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return blake2b(whole.data, digest_size=16, person=values.dtype.str.encode()).digest()
