"""matching: which of the model's parameters a constant of the program is, told by its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np

_HALF = np.dtype(np.float16)
_PREFIX = 64  # entries that tell nearly every pair apart


@dataclass(frozen=True, eq=False)
class Match:
    """The parameters that hold a constant's numbers, and how their axes lie in it; no names where there are none."""

    names: tuple[str, ...] = ()
    order: tuple[int, ...] = ()  # of a parameter's axes, before it takes the constant's shape

    def lay_out(self, parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A parameter, or its mask, as the constant lies."""
        return parameter.transpose(self.order).reshape(shape)

    def channels(self, parameter: np.ndarray, axis: int, shape: tuple[int, ...]) -> int | None:
        """Which axis of the constant the parameter's is; None where it was merged into another."""
        places = np.broadcast_to(
            np.arange(parameter.shape[axis]).reshape([-1 if a == axis else 1 for a in range(parameter.ndim)]),
            parameter.shape,
        )
        laid = self.lay_out(places, shape)
        for found, extent in enumerate(shape):
            first = np.arange(extent).reshape([-1 if a == found else 1 for a in range(len(shape))])
            if extent == parameter.shape[axis] and (laid == first).all():
                return found
        return None


class Matching:
    """The model's floats by name, to be found again. Each is compared as the constant's type holds it."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._by_size: dict[int, list[tuple[str, np.ndarray]]] = {}
        for name, values in weights.items():
            self._by_size.setdefault(values.size, []).append((name, values))

    def find(self, constant: np.ndarray) -> Match:
        """The parameters whose numbers these are, in their own layout, else with their axes in another order."""
        fitting = self._by_size.get(constant.size, [])
        own = [name for name, values in fitting if _equal(values, constant)]
        if own:
            return Match(tuple(own), tuple(range(_ndim(fitting, own[0]))))
        for name, values in fitting:
            for order in list(permutations(range(values.ndim)))[1:]:
                if _equal(values.transpose(order), constant):
                    return Match((name,), order)
        return Match()


def _ndim(fitting: list[tuple[str, np.ndarray]], name: str) -> int:
    return next(values.ndim for found, values in fitting if found == name)


def _equal(values: np.ndarray, constant: np.ndarray) -> bool:
    a, b = values.reshape(-1), constant.reshape(-1)
    with np.errstate(over="ignore"):
        for part in (slice(_PREFIX), slice(None)):
            wanted = a[part].astype(_HALF) if constant.dtype == _HALF else a[part]
            if not np.array_equal(wanted, b[part]):
                return False
    return True
