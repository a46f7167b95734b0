"""Which initializer holds which parameter: names do not survive conversion, contents do.

A converter may rename a weight, add an axis to it, or store the transposed copy that a matrix product wants. Equal
tensors are interchangeable, so a tie between them is no ambiguity: each initializer takes all parameters it equals.
"""

from __future__ import annotations

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
    direct: dict[bytes, list[str]] = {}
    turned: dict[bytes, list[str]] = {}
    for name in (*captured.module.state_dict(), *captured.aliases):
        values = captured.weight(name)
        direct.setdefault(_digest(values), []).append(name)
        if values.ndim == 2 and min(values.shape) > 1:
            turned.setdefault(_digest(values.T), []).append(name)
    matches = {}
    for name, values in tensors.items():
        digest = _digest(values)
        transposed = digest not in direct and digest in turned
        parameters = (turned if transposed else direct).get(digest, [])
        ranked = tuple(sorted(parameters, key=lambda p: (p != name, p)))
        matches[name] = Match(ranked, transposed, values != 0)
    return matches


def copies(tensors: Mapping[str, np.ndarray]) -> dict[str, Copy]:
    """Those of `tensors` that repeat an earlier one, as they are or transposed."""
    seen: dict[tuple[tuple[int, ...], bytes], Copy] = {}
    found = {}
    for name, values in tensors.items():
        key = (values.shape, _digest(values))
        if key in seen:
            found[name] = seen[key]
            continue
        seen[key] = Copy(name, False)
        if values.ndim == 2:
            seen.setdefault((values.shape[::-1], _digest(values.T)), Copy(name, True))
    return found


def _digest(values: np.ndarray) -> bytes:
    """Of dtype and bytes in C order; the shape is left out, for converters add axes of extent 1."""
    return blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16, person=values.dtype.str.encode()).digest()
