"""weights: which constant of the converted file is which parameter, and in what order its axes lie.

The converter forgets parameter names and moves axes: (out, in, kh, kw) becomes (out, kh, kw, in), a depthwise
(c, 1, kh, kw) becomes (1, kh, kw, c). Content decides: a constant belongs to the parameter whose bytes, in one of the
axis orders, are its bytes. Where the converter has also rescaled the values, the places of the zeros decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np

_USUAL: dict[int, list[tuple[int, ...]]] = {
    2: [(0, 1), (1, 0)],
    3: [(0, 2, 1), (0, 1, 2)],
    4: [(0, 2, 3, 1), (2, 3, 1, 0), (1, 2, 3, 0), (0, 1, 2, 3)],
}


@dataclass(frozen=True)
class Match:
    """A constant found: the parameter, the axis order that turns it into the constant's, whether values agree.

    `turned`: the kernel (out, in, *kernel) runs backwards, as where a transposed convolution of stride 1 became a
    convolution.
    """

    parameter: str
    order: tuple[int, ...]
    exact: bool
    turned: bool = False

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter is a matrix or a kernel, rather than a bias or a scale."""
        return len(self.order) > 1

    def lay_out(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """An array of the parameter's shape (its mask, say) in the constant's shape."""
        return (_turned(array) if self.turned else array).transpose(self.order).reshape(shape)


def match(constants: Mapping[int, np.ndarray], parameters: Mapping[str, np.ndarray]) -> dict[int, Match]:
    """Constant index → its parameter. Constants that no parameter explains are left out.

    >>> found = match({7: np.arange(6.0).reshape(2, 3).T.copy()}, {"w": np.arange(6.0).reshape(2, 3)})
    >>> found[7].parameter, found[7].order
    ('w', (1, 0))
    """
    found: dict[int, Match] = {}
    for seen, exact in ((_words, True), (_pattern, False)):
        pending: dict[tuple[int, int, int], dict[int, np.ndarray]] = {}
        for index, constant in constants.items():
            if index not in found and (exact or 0 < np.count_nonzero(constant) < constant.size):
                whole = seen(constant)
                pending.setdefault(_signs(whole), {})[index] = whole
        sizes = {size for size, _, _ in pending}
        taken = {m.parameter for m in found.values()}
        for name, parameter in parameters.items():
            if parameter.size not in sizes or name in taken:
                continue
            whole = seen(parameter)
            candidates = pending.get(_signs(whole), {})
            for turned in (False, True) if math.prod(parameter.shape[2:]) > 1 else (False,):
                for index, order in _places(_turned(whole) if turned else whole, candidates):
                    found.setdefault(index, Match(name, order, exact, turned))
    return found


def _turned(kernel: np.ndarray) -> np.ndarray:
    return np.flip(kernel, tuple(range(2, kernel.ndim)))


def _places(parameter: np.ndarray, candidates: dict[int, np.ndarray]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every constant that is `parameter` in some axis order, taken out; the first order that matches is the one."""
    usual = _USUAL.get(parameter.ndim, [])
    for order in [*usual, *(o for o in permutations(range(parameter.ndim)) if o not in usual)]:
        laid = parameter.transpose(order)
        indices = [index for index, constant in candidates.items() if _equal(constant.reshape(laid.shape), laid)]
        if indices:
            for index in indices:
                del candidates[index]
                yield index, order
            return


def _equal(constant: np.ndarray, parameter: np.ndarray) -> bool:
    """Whether they agree everywhere; where they do not, the first part tells nearly always."""
    first, other = (np.atleast_1d(array)[:1] for array in (constant, parameter))
    return np.array_equal(first, other) and np.array_equal(constant, parameter)


def _signs(whole: np.ndarray) -> tuple[int, int, int]:
    """What is the same in every order of the axes: entries, bytes and the sum."""
    return whole.size, whole.nbytes, int(whole.sum(dtype=np.uint64))


def _words(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(array.shape)  # a number gets an axis there


def _pattern(array: np.ndarray) -> np.ndarray:
    return np.asarray(array != 0)
