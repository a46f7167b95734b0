"""One weight of the model against one tensor of the file: which layout fits, and whether every entry agrees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

import numpy as np

from idp_deploy.flow import StoredTensor, WeightProof

_INTEGER_STEP = 1 / 127  # of the largest value: one step of a symmetric int8 weight
_ROUNDING = 2.0**-20  # relative, where float32 was multiplied in another order
_HALF_ROUNDING = 2.0**-9  # where a scale or a palette is kept in float16; a wrong integer is off by 1/127 at least
_HALF_LEAST = 2.0**-24  # the smallest number that float16 has
_HALF_SCALE = 128 * _HALF_LEAST / 2  # how far 127 is off where it and its scale were rounded to multiples of that
_MERGED = 5  # axes of a weight of which a file may make fewer, in any order
_PREFIX = 4096  # entries that tell most tensors apart before all are touched


@dataclass(frozen=True, eq=False)
class Reference:
    """A weight as it should be in the file. `values`: float32 (float64 of that), with batch norm where folded."""

    parameter: str
    values: np.ndarray
    quantized: bool  # the values already are those of integers or of a palette
    acts: np.ndarray | None = None  # False where an entry meets no input, only constants
    computed: bool = False  # from the weight and constants; a converter may round on the way differently
    roundings: int = 2  # to float16, on the way into a float16 tensor
    gates: int = 1  # matrices stacked along the first axis, whose order every runtime has its own of

    def acting_rows(self) -> Reference | None:
        """The rows that meet an input; None where all do, or where some row does in part."""
        if self.acts is None or self.acts.ndim == 0:
            return None
        rows = self.acts.reshape(len(self.acts), -1)
        some = rows.any(axis=1)
        if some.all() or not some.any() or not rows[some].all():
            return None
        return replace(self, values=self.values[some], acts=None, gates=1)

    @cached_property
    def largest(self) -> float:
        """max |values|."""
        return float(np.abs(self.values).max(initial=0.0))


class Stored:
    """A tensor of the file, decoded once."""

    def __init__(self, tensor: StoredTensor, *, half_scales: bool = False) -> None:
        self.tensor = tensor
        self.half = half_scales or tensor.dtype == "float16"

    @cached_property
    def values(self) -> np.ndarray:
        """What it means, in float32 (float64 for float64)."""
        read = self.tensor.dequantize or self.tensor.values
        values = read()
        return values if values.dtype == np.float64 else values.astype(np.float32)

    def directions(self) -> tuple[Stored, ...]:
        """The matrices of a stack of two, as bidirectional layers have them; none of any other tensor."""
        tensor = self.tensor
        if len(tensor.shape) != 3 or tensor.shape[0] != 2:
            return ()

        def half(index: int) -> Stored:
            matrix = replace(
                tensor,
                shape=tensor.shape[1:],
                size_bytes=tensor.size_bytes // 2,
                values=lambda: self.values[index],
                dequantize=None,
            )
            found = Stored(matrix)
            found.half = self.half
            return found

        return half(0), half(1)


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference in the layout of a stored tensor of the same size. `exact`: the file is ours, no bit may differ."""

    reference: Reference
    expected: np.ndarray
    stored: Stored
    exact: bool

    @cached_property
    def prefix_error(self) -> float:
        """The largest difference among the first entries, which ranks pairs that do not agree."""
        first, other = self.expected.flat[:_PREFIX], self.stored.values.flat[:_PREFIX]
        return float(np.abs(other.astype(np.float64) - first).max(initial=0.0))

    @property
    def may_agree(self) -> bool:
        """Whether the first entries do."""
        return bool(self._agree(self.expected.flat[:_PREFIX], self.stored.values.flat[:_PREFIX]).all())

    def prove(self) -> WeightProof:
        """Compare every entry."""
        tensor, actual = self.stored.tensor, self.stored.values
        scale = float(np.abs(self.expected).max(initial=0.0)) or 1.0
        return WeightProof(
            parameter=self.reference.parameter,
            tensor=tensor.name,
            encoding=tensor.encoding,
            size_bytes=tensor.size_bytes,
            expected_zeros=int((rounded(self.expected, tensor.dtype) == 0).sum()),
            zeros=int((actual == 0).sum()),
            max_relative_error=float(np.abs(actual.astype(np.float64) - self.expected).max(initial=0.0)) / scale,
            passed=bool(self.agreement().all()),
        )

    def agreement(self) -> np.ndarray:
        """Entry by entry, in the layout of the stored tensor."""
        return self._agree(self.expected, self.stored.values)

    def _agree(self, expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
        """Entry by entry: whether the stored value is what this type can hold of the expected one."""
        tensor, wanted = self.stored.tensor, rounded(expected, self.stored.tensor.dtype)
        if tensor.dtype.startswith("float") and "lut" not in tensor.encoding:
            # what float16 rounds to zero is that, or, as coremltools has it, the smallest number there is
            lost = (wanted == 0) & (expected != 0) & (np.abs(actual) <= _HALF_LEAST)
            if self.exact and not self.reference.quantized and not self.reference.computed:
                return (actual == wanted) | lost
            slack = np.abs(expected) * (self.reference.roundings * 2.0**-11 if tensor.dtype == "float16" else _ROUNDING)
            with np.errstate(invalid="ignore"):  # ∞ − ∞ is within nothing
                return (np.abs(actual - wanted) <= slack) & ((actual == 0) == (wanted == 0)) | lost
        difference = np.abs(actual - expected)
        if self.reference.quantized:
            least = _HALF_SCALE if self.stored.half else 0.0
            slack = np.maximum(least, np.abs(expected) * (_HALF_ROUNDING if self.stored.half else _ROUNDING))
            kept = (actual != 0) | (np.abs(expected) <= least)
            return (difference <= slack) & np.where(expected == 0, actual == 0, kept)
        step = self.reference.largest * _INTEGER_STEP
        return (difference <= 0.51 * step) & ((actual == 0) | (expected != 0))


def best(pairs: Iterable[Pair]) -> WeightProof | None:
    """The proof of the first pair that passes, else of the one that comes closest; None without pairs."""
    closest: Pair | None = None
    failed: WeightProof | None = None
    for pair in pairs:
        if pair.may_agree:
            proof = pair.prove()
            if proof.passed:
                return proof
            if failed is None or proof.max_relative_error < failed.max_relative_error:
                failed = proof
        elif closest is None or pair.prefix_error < closest.prefix_error:
            closest = pair
    return failed or (closest.prove() if closest is not None else None)


def pairs(reference: Reference, stored: Stored, *, exact: bool) -> Iterator[Pair]:
    """The reference in every layout that has the shape of the stored tensor."""
    for layout in layouts(reference.values, stored.tensor.shape, reference.gates):
        yield Pair(reference, layout, stored, exact)


def layouts(values: np.ndarray, shape: tuple[int, ...], gates: int = 1) -> Iterator[np.ndarray]:
    """Every reordering of the axes that has this shape, extents of 1 left aside and neighbours merged; then those of
    the turned kernel, or those of the gates in another order.

    A transposed convolution of stride 1 is a convolution whose kernel (out, in, *kernel) is turned around.

    >>> len(list(layouts(np.zeros((4, 3, 2, 2)), (2, 2, 3, 4))))  # the kernel's axes either way, turned or not
    4
    >>> len(list(layouts(np.zeros((4, 3)), (3, 4))))
    1
    >>> len(list(layouts(np.zeros((4, 8, 16)), (8, 64))))  # four experts side by side, within or around; turned or not
    4
    >>> len(list(layouts(np.zeros((6, 4)), (4, 6), gates=3)))
    6
    """
    yield from _reorderings(values, shape)
    for order in list(permutations(range(gates)))[1:]:
        yield from _reorderings(np.concatenate([np.split(values, gates)[gate] for gate in order]), shape)
    if math.prod(values.shape[2:]) > 1:
        yield from _reorderings(np.flip(values, tuple(range(2, values.ndim))), shape)


def _reorderings(values: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    target = tuple(extent for extent in shape if extent != 1)
    squeezed = values.squeeze()
    if squeezed.shape == target:
        yield values.reshape(shape)
    for order in permutations(range(squeezed.ndim)):
        if order != tuple(range(squeezed.ndim)) and tuple(squeezed.shape[a] for a in order) == target:
            yield squeezed.transpose(order).reshape(shape)
    if len(target) < squeezed.ndim:
        as_it_is = tuple(range(squeezed.ndim))
        for order in permutations(as_it_is) if squeezed.ndim <= _MERGED else [as_it_is]:
            if _merges([squeezed.shape[a] for a in order], target):
                yield squeezed.transpose(order).reshape(shape)


def _merges(extents: Sequence[int], target: Sequence[int]) -> bool:
    """Whether neighbours in `extents` make up every extent of `target`, in order.

    >>> _merges([8, 4, 16], [8, 64]), _merges([8, 4, 16], [16, 32])
    (True, False)
    """
    left = list(extents)
    for wanted in target:
        size = 1
        while left and size < wanted:
            size *= left.pop(0)
        if size != wanted:
            return False
    return not left


def rounded(expected: np.ndarray, dtype: str) -> np.ndarray:
    """What a tensor of this type can hold of the values, in float32 (float64 for float64)."""
    if dtype != "float16":
        return expected if dtype == "float64" else expected.astype(np.float32)
    with np.errstate(over="ignore"):
        return expected.astype(np.float16).astype(np.float32)
