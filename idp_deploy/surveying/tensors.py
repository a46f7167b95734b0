"""What forward is followed with: tensors known by shape, layers in their places, modules with their arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from idp_deploy.surveying import effects
from idp_deploy.surveying.definitions import Definition
from idp_deploy.surveying.effects import OddError, Shape

MOST_AXES, MOST = 64, 1 << 40


@dataclass(frozen=True)
class T:
    """A tensor: its shape where that is known, and the input that it is where nothing weighed it yet."""

    shape: Shape | None = None
    of: str = ""

    def __post_init__(self) -> None:
        """
        Raises:
            OddError: nothing is that large.
        """
        if self.shape and (len(self.shape) > MOST_AXES or any(one is not None and one > MOST for one in self.shape)):
            raise OddError


@dataclass(frozen=True)
class Layer:
    """A layer in its place."""

    name: str  # dotted, as its weights are called
    call: ast.Call
    owner: Instance


@dataclass(frozen=True)
class Instance:
    """A module of the folder with the arguments that it was built with."""

    definition: Definition
    prefix: str
    given: Mapping[str, object]


def tensors_in(values: Sequence[object]) -> Iterator[T]:
    """Those in lists within lists, each list once: one that holds itself has no end."""
    left, seen = list(reversed(values)), set[int]()
    while left:
        one = left.pop()
        if isinstance(one, T):
            yield one
        elif isinstance(one, list | tuple) and id(one) not in seen:
            seen.add(id(one))
            left += reversed(one)


def extents_of(held: T) -> object:
    return [... if extent is None else extent for extent in held.shape] if held.shape is not None else ...


def combined(left: object, right: object, matrix: bool) -> T:
    first, second = (one if isinstance(one, T) else None for one in (left, right))
    if first is None or second is None:  # a number beside a tensor changes no shape
        only = first or second or T()
        other = right if first is not None else left
        return only if isinstance(other, int | float) or only.of else T()
    if first.shape is None or second.shape is None:
        return T()
    return T((effects.multiplied if matrix else effects.broadcast)(first.shape, second.shape))


def agree(shape: Shape, axis: int, extent: int | None) -> None:
    """
    Raises:
        OddError: the axis is not there, or another extent stands there.
    """
    there = shape[axis] if -len(shape) <= axis < len(shape) else 0
    if there is not None and extent is not None and there != extent:
        raise OddError((there, extent) if there else None)
