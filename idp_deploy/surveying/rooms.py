"""Where weights lie, and how far forward is followed before that is given up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DEEPEST_NAME = 32
MOST_STEPS = 200_000  # a second or two
Rooms = Mapping[str, Mapping[str, None]]


class LongError(Exception):
    """There is no end to what is followed."""


@dataclass
class Steps:
    """Those that are left for all that is tried with one model."""

    left: int = MOST_STEPS

    def take(self, count: int) -> None:
        """
        Raises:
            LongError: none are left.
        """
        self.left -= count
        if self.left < 0:
            raise LongError


def rooms_of(names: Iterable[str]) -> dict[str, dict[str, None]]:
    """What lies in each module, by its dotted name.

    >>> rooms_of(["a.0.weight", "a.1.weight"])
    {'a.0': {'weight': None}, 'a': {'0': None, '1': None}, '': {'a': None}, 'a.1': {'weight': None}}
    """
    found: dict[str, dict[str, None]] = {}
    for name in names:
        left = name if name.count(".") <= DEEPEST_NAME else ""
        while left:
            left, _, last = left.rpartition(".")
            inside = found.setdefault(left, {})
            if last in inside:
                break
            inside[last] = None
    return found
