"""Patterns: which entries of a weight are kept or zeroed together.

A pattern lays a weight out as *units* and scores each one in the weight's own unit of measure. The threshold t lies
midway between the largest pruned and the smallest kept score; the hard mask zeroes exactly the smallest scores.

One worked example, 4×4, half of it pruned; ties go to the entry that comes first:

>>> w = torch.tensor([[8., -1., 3., 2.], [1., 6., -5., 4.], [2., 2., 7., -9.], [3., 1., 1., 2.]])
>>> parse_pattern("unstructured").hard_mask(w, zeros=8).int()
tensor([[1, 0, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
        [1, 0, 0, 0]], dtype=torch.int32)
>>> parse_pattern("2:4").hard_mask(w, zeros=8).int()
tensor([[1, 0, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
        [1, 0, 0, 1]], dtype=torch.int32)
>>> parse_pattern("block:1x2").hard_mask(w, zeros=8).int()
tensor([[1, 1, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 0]], dtype=torch.int32)
>>> parse_pattern("channel").hard_mask(w, zeros=8).int()
tensor([[1, 1, 1, 1],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 0, 0]], dtype=torch.int32)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise

import torch
from torch import Tensor

from idp_deploy.errors import UsageError
from idp_deploy.masks.selection import keep_largest, largest_of_rows, smallest_kept_and_largest_pruned


@dataclass(frozen=True)
class Pattern:
    """Which entries are kept or zeroed together; this base is `unstructured`, every entry for itself.

    A weight is (out, in, *kernel); `output_axis` is 1 for transposed convolutions. Units are laid over the matrix
    (out, kernel·in) with the input channel fastest, the order of NHWC runtimes and of coremltools' n:m pruning.
    """

    shared = False  # whether the entries of a unit share one score
    single = True  # whether every entry is a unit of its own, with one threshold for all

    @property
    def name(self) -> str:
        """As `parse_pattern` reads it."""
        return "unstructured"

    def unit(self, shape: tuple[int, ...], output_axis: int = 0) -> int:
        """Entries that go together: zero counts are multiples of it."""
        return 1

    def check(self, weight_name: str, shape: tuple[int, ...], output_axis: int = 0) -> None:
        """Raise `UsageError` where the pattern does not divide this weight."""

    def misfit(self, shape: tuple[int, ...], output_axis: int = 0) -> str:
        """Why a weight that nobody named should stay dense under this pattern, in words; empty where it fits."""
        return ""

    def to_units(self, w: Tensor, output_axis: int = 0) -> Tensor:
        """Differentiable view or copy of w with the unit (or the N:M group) as last axis."""
        return w

    def from_units(self, units: Tensor, shape: tuple[int, ...], output_axis: int = 0) -> Tensor:
        """Inverse of `to_units`."""
        return units

    def scores(self, w: Tensor, output_axis: int = 0) -> Tensor:
        """One score a unit: |w|, or the root mean square of a shared unit, which orders units as their L2 norm does."""
        units = self.to_units(w.detach(), output_axis)
        exact = units.to(torch.promote_types(w.dtype, torch.float32))
        return exact.square().mean(-1).sqrt() if self.shared else exact.abs()

    def unit_scores(self, entry_scores: Tensor, output_axis: int = 0) -> Tensor:
        """Scores of single entries, in w's shape, as scores of units: their mean where a unit shares one."""
        units = self.to_units(entry_scores, output_axis)
        return units.mean(-1) if self.shared else units

    def threshold(self, w: Tensor, zeros: int, output_axis: int = 0, *, near: float = 0.0) -> Tensor:
        """t, midway between the largest pruned and the smallest kept score; broadcasts against `to_units(w)`.

        Args:
            zeros: entries to prune, a multiple of the unit; 0 < zeros < entries of w.
            near: an earlier t, which makes finding the new one cheaper and changes nothing else.
        """
        unit = self.unit(tuple(w.shape), output_axis)
        kept, gone = smallest_kept_and_largest_pruned(self.scores(w, output_axis), zeros // unit, near)
        return (kept + gone) / 2

    def hard_mask(self, w: Tensor, zeros: int, output_axis: int = 0, *, floor: bool = False) -> Tensor:
        """Bool mask of w's shape with exactly `zeros` False entries, the smallest; ties keep the first index.

        Args:
            floor: keep the best unit of every output row, whatever its size, where `zeros` leaves room for that.
        """
        return self.mask_by(self.scores(w, output_axis), tuple(w.shape), zeros, output_axis, floor=floor)

    def mask_by(
        self, scores: Tensor, shape: tuple[int, ...], zeros: int, output_axis: int = 0, *, floor: bool = False
    ) -> Tensor:
        """As `hard_mask`, for any scores of the units, laid out as `scores` returns them."""
        unit = self.unit(shape, output_axis)
        pruned = zeros // unit
        if floor:
            best = self.best_of_rows(scores, shape, zeros, output_axis)
            scores = scores.reshape(-1).index_fill(0, best, torch.inf).view(scores.shape)
        kept = keep_largest(scores, pruned)
        if self.shared:
            kept = kept.unsqueeze(-1).expand(*kept.shape, unit)
        return self.from_units(kept, shape, output_axis).contiguous()

    def best_of_rows(self, scores: Tensor, shape: tuple[int, ...], zeros: int, output_axis: int = 0) -> Tensor:
        """The units that `mask_by` with `floor` keeps whatever their size, one a row, none where that cannot be met.

        Returns:
            Their numbers among the units, laid out as `scores`.
        """
        kept = scores.numel() - zeros // self.unit(shape, output_axis)
        by_row, rows = scores.reshape(scores.shape[0], -1), self.floored_rows(shape[output_axis])
        if by_row.shape[0] != rows or kept < rows or by_row.shape[1] < 2:
            return torch.empty(0, dtype=torch.int64, device=scores.device)
        return largest_of_rows(by_row) + by_row.shape[1] * torch.arange(rows, device=scores.device)

    def floored_rows(self, outputs: int) -> int:
        """Rows of units of which each is to keep one; 0 where none has to."""
        return outputs


@dataclass(frozen=True)
class Free(Pattern):
    """Single entries, of which a row may lose all: where hardly more are kept than there are rows, others need them.

    >>> w = torch.tensor([[3.0, 2.0], [0.0, 0.1]])
    >>> [parse_pattern(name).hard_mask(w, zeros=2, floor=True).int().tolist() for name in ("unstructured", "free")]
    [[[1, 0], [0, 1]], [[1, 1], [0, 0]]]
    """

    @property
    def name(self) -> str:
        return "free"

    def floored_rows(self, outputs: int) -> int:
        return 0


@dataclass(frozen=True)
class NM(Pattern):
    """`kept` of every `of` consecutive inputs survive: NM(kept=1, of=4) is "1:4" with three zeros a group.

    The input dimension is kernel·in with the channel fastest, so where `in` divides by `of` the groups run along the
    input channels at one kernel position, as sparse tensor cores and coremltools have them (which counts the zeros).
    """

    kept: int = 2
    of: int = 4
    single = False

    @property
    def name(self) -> str:
        return f"{self.kept}:{self.of}"

    @property
    def sparsity(self) -> float:
        """The share of zeros that this pattern means."""
        return 1 - self.kept / self.of

    def check(self, weight_name: str, shape: tuple[int, ...], output_axis: int = 0) -> None:
        inputs = math.prod(shape) // shape[output_axis]
        _must_divide(weight_name, shape, self.name, inputs, "inputs", self.of)

    def misfit(self, shape: tuple[int, ...], output_axis: int = 0) -> str:
        """Where input channels do not divide, groups would run over kernel positions, which no hardware computes."""
        channels = shape[:output_axis] + shape[output_axis + 1 :]
        if channels and channels[0] % self.of:
            return f"{self.name} goes along input channels, and {channels[0]} do not divide by {self.of}"
        return ""

    def to_units(self, w: Tensor, output_axis: int = 0) -> Tensor:
        return _matrix(w, output_axis).unflatten(1, (-1, self.of))  # (out, groups, of)

    def from_units(self, units: Tensor, shape: tuple[int, ...], output_axis: int = 0) -> Tensor:
        return _unmatrix(units.flatten(1), shape, output_axis)

    def threshold(self, w: Tensor, zeros: int, output_axis: int = 0, *, near: float = 0.0) -> Tensor:
        """t a group, (out, groups, 1). While the ramp is below the full count, t is capped so that only the
        smallest `zeros` of all entries a full N:M mask would prune fall below it."""
        scores = self.scores(w, output_axis)
        ordered = scores.sort(-1).values
        candidates = ordered[..., : self.of - self.kept]
        t = (candidates[..., -1:] + ordered[..., self.of - self.kept, None]) / 2
        if zeros < candidates.numel():
            above, below = smallest_kept_and_largest_pruned(candidates, zeros)
            t = torch.minimum(t, (above + below) / 2)
        return t

    def mask_by(
        self, scores: Tensor, shape: tuple[int, ...], zeros: int, output_axis: int = 0, *, floor: bool = False
    ) -> Tensor:
        order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
        pruned = torch.ones_like(scores, dtype=torch.bool).scatter_(-1, order[..., : self.kept], False)
        if zeros < int(pruned.sum()):
            candidates = torch.where(pruned, scores, torch.inf)
            pruned = ~keep_largest(candidates, zeros)
        return self.from_units(~pruned, shape, output_axis).contiguous()


@dataclass(frozen=True)
class Block(Pattern):
    """`rows`×`columns` tiles of the (out, kernel·in) matrix live or die together, scored by their L2 norm."""

    rows: int = 1
    columns: int = 4
    shared = True
    single = False

    @property
    def name(self) -> str:
        return f"block:{self.rows}x{self.columns}"

    def unit(self, shape: tuple[int, ...], output_axis: int = 0) -> int:
        return self.rows * self.columns

    def check(self, weight_name: str, shape: tuple[int, ...], output_axis: int = 0) -> None:
        out = shape[output_axis]
        _must_divide(weight_name, shape, self.name, out, "outputs", self.rows)
        _must_divide(weight_name, shape, self.name, math.prod(shape) // out, "inputs", self.columns)

    def to_units(self, w: Tensor, output_axis: int = 0) -> Tensor:
        matrix = _matrix(w, output_axis)
        tiles = matrix.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))
        return tiles.transpose(1, 2).flatten(2)  # (out/rows, inputs/columns, rows·columns)

    def from_units(self, units: Tensor, shape: tuple[int, ...], output_axis: int = 0) -> Tensor:
        tiles = units.unflatten(2, (self.rows, self.columns)).transpose(1, 2)
        return _unmatrix(tiles.flatten(0, 1).flatten(1), shape, output_axis)

    def floored_rows(self, outputs: int) -> int:
        return outputs // self.rows


@dataclass(frozen=True)
class Channel(Pattern):
    """Whole output channels, scored by their L2 norm.

    Where some can only go together, as halves of a gate do, a unit is several: `each` of them, one unit after the other
    in `order`, which has every output once. Without an order a unit is one channel. `grouped`: a convolution in groups
    makes or reads them.

    >>> halves, heads = Channel.made_of((0, 1, 2, 0, 1, 2), 3), Channel.made_of((0, 0, 1, 1), 2)
    >>> halves.order, halves.each, halves.stretch, heads.each, heads.stretch
    ((0, 3, 1, 4, 2, 5), 2, 1, 2, 2)
    """

    order: tuple[int, ...] = ()
    each: int = 1
    grouped: bool = False

    shared = True
    single = False

    @classmethod
    def made_of(cls, channels: Sequence[int], many: int, *, grouped: bool = False) -> Channel:
        """Of a weight whose outputs are these channels of the network, of `many`."""
        order = tuple(sorted(range(len(channels)), key=lambda place: channels[place]))
        if list(order) == list(channels) or not many:
            return cls(grouped=grouped)
        return cls(order, len(order) // many, grouped)

    @property
    def stretch(self) -> int:
        """Outputs of a unit that lie side by side: all of a head, one of a gate or of a convolution in groups."""
        unit = self.order[: self.each]
        breaks = [0, *(k for k in range(1, len(unit)) if unit[k] != unit[k - 1] + 1), max(len(unit), 1)]
        return min(end - begin for begin, end in pairwise(breaks))

    @property
    def name(self) -> str:
        return "channel"

    def unit(self, shape: tuple[int, ...], output_axis: int = 0) -> int:
        return math.prod(shape) // shape[output_axis] * self.each

    def to_units(self, w: Tensor, output_axis: int = 0) -> Tensor:
        matrix = _matrix(w, output_axis)
        if not self.order:
            return matrix
        return matrix[torch.tensor(self.order, device=w.device)].reshape(-1, self.each * matrix.shape[1])

    def from_units(self, units: Tensor, shape: tuple[int, ...], output_axis: int = 0) -> Tensor:
        matrix = units.reshape(shape[output_axis], -1)
        if self.order:
            matrix = matrix[torch.tensor(self.order, device=units.device).argsort()]
        return _unmatrix(matrix, shape, output_axis)

    def floored_rows(self, outputs: int) -> int:
        return 0  # a channel that goes is the point; the budget keeps at least one a layer


def _matrix(w: Tensor, output_axis: int) -> Tensor:
    """(out, in, *kernel) → (out, kernel·in), input channel fastest."""
    w = w.movedim(output_axis, 0)
    return w.movedim(1, -1).flatten(1) if w.dim() > 2 else w.reshape(w.shape[0], -1)


def _unmatrix(matrix: Tensor, shape: tuple[int, ...], output_axis: int) -> Tensor:
    moved = (shape[output_axis], *shape[:output_axis], *shape[output_axis + 1 :])
    if len(moved) > 2:
        matrix = matrix.unflatten(1, (*moved[2:], moved[1])).movedim(-1, 1)
    return matrix.reshape(moved).movedim(0, output_axis)


def _must_divide(weight: str, shape: tuple[int, ...], pattern: str, count: int, what: str, by: int) -> None:
    if count % by:
        owner, _, leaf = weight.rpartition(".")
        glob = f"{owner}.*" if owner and leaf == "weight" else weight
        raise UsageError(
            f"weight '{weight}' has shape {shape}; pattern {pattern} needs {count} {what} to divide by {by}",
            way_out=f'leave it out with skip = ["{glob}"]',
        )


PATTERNS: dict[str, tuple[str, Callable[..., Pattern]]] = {
    r"unstructured": ("unstructured", Pattern),
    r"free": ("free", Free),
    r"(\d+):(\d+)": ("N:M, such as 2:4 or 1:4 (N kept of every M inputs)", NM),
    r"block:(\d+)x(\d+)": ("block:RxC, such as block:1x4, block:4x1, block:1x16 (outputs x inputs)", Block),
    r"channel": ("channel", Channel),
}


def parse_pattern(text: str) -> Pattern:
    """The pattern that `text` names.

    Raises:
        UsageError: it names none.

    >>> parse_pattern("1:4")
    NM(kept=1, of=4)
    >>> parse_pattern("block:1x16").name
    'block:1x16'
    >>> parse_pattern("4:2")
    Traceback (most recent call last):
    ...
    idp_deploy.errors.UsageError: pattern '4:2' keeps 4 of every 2 — write N:M with 0 < N < M, such as 2:4
    """
    if not isinstance(text, str):
        raise UsageError(f"pattern is {text!r}", way_out="give its name, such as 2:4")
    for expression, (_, build) in PATTERNS.items():
        match = re.fullmatch(expression, text.strip())
        if match is None:
            continue
        numbers = tuple(int(group) for group in match.groups())
        if build is NM and not 0 < numbers[0] < numbers[1]:
            raise UsageError(
                f"pattern '{text}' keeps {numbers[0]} of every {numbers[1]}",
                way_out="write N:M with 0 < N < M, such as 2:4",
            )
        if build is Block and 0 in numbers:
            raise UsageError(f"pattern '{text}' has a side of 0", way_out="write block:1x4")
        return build(*numbers)
    known = "; ".join(words for words, _ in PATTERNS.values())
    near = get_close_matches(text.strip().lower(), ("unstructured", "channel", "free"), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UsageError(f"unknown pattern '{text}'", way_out=f"{hint}known are {known}")
