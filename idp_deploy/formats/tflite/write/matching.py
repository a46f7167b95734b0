"""weights: which constant of the converted file is which parameter, and in what order its axes lie.

The converter forgets parameter names and moves axes: (out, in, kh, kw) becomes (out, kh, kw, in), a depthwise
(c, 1, kh, kw) becomes (1, kh, kw, c). Content decides: a constant belongs to the parameter whose bytes, in one of the
axis orders, are its bytes. Where the converter has also rescaled the values, the places of the zeros decide.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
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
    for digest, exact in ((_values, True), (_pattern, False)):
        pending: dict[tuple[int, bytes], list[int]] = {}
        for index, constant in constants.items():
            if index not in found and (exact or 0 < np.count_nonzero(constant) < constant.size):
                pending.setdefault((constant.size, digest(constant)), []).append(index)
        sizes = {size for size, _ in pending}
        taken = {m.parameter for m in found.values()}
        for name, parameter in parameters.items():
            if parameter.size not in sizes or name in taken:
                continue
            for turned in (False, True) if math.prod(parameter.shape[2:]) > 1 else (False,):
                for index, order in _places(_turned(parameter) if turned else parameter, pending, digest):
                    found.setdefault(index, Match(name, order, exact, turned))
    return found


def _turned(kernel: np.ndarray) -> np.ndarray:
    return np.flip(kernel, tuple(range(2, kernel.ndim)))


def _places(
    parameter: np.ndarray, pending: dict[tuple[int, bytes], list[int]], digest: Callable[[np.ndarray], bytes]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every constant that is `parameter` in some axis order; the first order that matches is the one."""
    usual = _USUAL.get(parameter.ndim, [])
    for order in [*usual, *(o for o in permutations(range(parameter.ndim)) if o not in usual)]:
        indices = pending.pop((parameter.size, digest(parameter.transpose(order))), [])
        if indices:
            yield from ((index, order) for index in indices)
            return


def _values(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def _pattern(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.packbits(array != 0).data, digest_size=16).digest()
