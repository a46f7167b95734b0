"""What a graph chooses by: layers whose largest results say what is computed further, as a router does, stay float."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def choosing(
    ops: Sequence[tuple[str, Sequence[Name], Sequence[Name]]],
    choices: Collection[str],
    hands_on: Collection[str],
    layers: Collection[str],
) -> set[Name]:
    """What the largest are taken of, back to the layers that give it, where more is computed from which they are.

    Args:
        ops: in order, each with its kind, what it reads and what it gives; places come last of what a choice gives.
        choices: kinds that take the largest; `hands_on`: those that change no values; `layers`: where it begins.

    >>> ops = [("FC", ["x"], ["y"]), ("ArgMax", ["y"], ["at"]), ("Cast", ["at"], ["out"])]
    >>> more = [*ops, ("Gather", ["out"], ["z"])]
    >>> [choosing(one, ["ArgMax"], ["Cast"], ["FC"]) for one in (ops, more)]
    [set(), {'y'}]
    """
    read = {name for kind, inputs, _ in ops if kind not in hands_on for name in inputs}
    found: set[Name] = set()
    for kind, inputs, made in reversed(ops):
        if kind in hands_on and inputs and not read.isdisjoint(made):
            read.add(inputs[0])
        if kind in choices and inputs and made[-1] in read:
            found.add(inputs[0])
        elif kind not in layers and not found.isdisjoint(made):
            found.update(inputs)
    return found
