"""When pruning happens: dense steps, a ramp to the full number of zeros, and steps on a frozen hard mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.pruning.beginnings import looks_untrained

Phase = Literal["dense", "ramp", "frozen"]
Shape = Literal["cubic", "linear", "sigmoid", "none"]


@dataclass(frozen=True)
class Schedule:
    """Counted in optimizer steps, so that a run of three epochs has the same shape as one of a hundred.

    Step i (from 0) is the i-th optimizer step. It is dense before `dense_until`; the share of the budget then rises
    to 1; from `frozen_from` the mask no longer changes.
    """

    total: int
    dense_until: int
    ramp: float  # steps from there to the full budget
    frozen_from: int
    shape: Shape = "cubic"
    per_stage: int = 1  # steps between two values of the ramp: 1, or a whole epoch as in the paper

    def phase(self, step: int) -> Phase:
        """What step `step` trains on."""
        if step >= self.frozen_from:
            return "frozen"
        return "dense" if step < self.dense_until else "ramp"

    def ratio(self, step: int) -> float:
        """Share of the final number of zeros that is pruned at `step`, in [0, 1]."""
        if step < self.dense_until:
            return 0.0
        staged = ((step - self.dense_until) // self.per_stage + 1) * self.per_stage
        progress = min(1.0, staged / self.ramp) if self.ramp > 0 else 1.0
        return _SHAPES[self.shape](progress)

    def stretched(self, done: int, left: int, per_stage: int = 1) -> Schedule:
        """The same share of zeros after `done` steps, and what follows spread evenly over `left` more.

        >>> halved = (schedule := auto_schedule(100)).stretched(10, 45)
        >>> halved.total, halved.frozen_from, round(schedule.ratio(9), 2), round(halved.ratio(9), 2)
        (55, 40, 0.7, 0.7)
        """
        rest, total, dense_until, ramp, frozen_from = self.total - done, done + left, self.dense_until, self.ramp, 0
        if rest > 0:
            dense_until = done + (dense_until - done) * left // rest
            ramp, frozen_from = ramp * left / rest, done + (self.frozen_from - done) * left // rest
        if self.frozen_from > self.total:
            frozen_from = total + 1  # never
        elif self.frozen_from <= done or rest <= 0:
            frozen_from = self.frozen_from
        return Schedule(total, dense_until, ramp, frozen_from, self.shape, per_stage)


def _sigmoid(progress: float) -> float:
    """From exactly 0 to exactly 1, steepest half-way."""
    low, high = (1 / (1 + math.exp(-10 * (x - 0.5))) for x in (0, 1))
    return (1 / (1 + math.exp(-10 * (progress - 0.5))) - low) / (high - low)


_SHAPES: dict[Shape, Callable[[float], float]] = {
    "cubic": lambda progress: 1 - (1 - progress) ** 3,  # Zhu & Gupta 2018, arXiv 1710.01878
    "linear": lambda progress: progress,
    "sigmoid": _sigmoid,
    "none": lambda progress: 1.0,
}


def usual_timing(module: nn.Module) -> Mapping[str, float]:
    """`dense` and `ramp` of `auto_schedule` for a model that starts as it is.

    A trained model is pruned from the first step. One that has learned nothing yet learns for a fifth of the steps
    first: by the size of weights that are still random, ruin is chosen (docs/pruning-measured.md has the figures).

    >>> usual_timing(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    {'dense': 0.2, 'ramp': 0.5}
    """
    return {"dense": 0.2, "ramp": 0.5} if looks_untrained(module) else {"dense": 0.0, "ramp": 0.3}


def auto_schedule(
    total: int, *, dense: float = 0.0, ramp: float = 0.3, finish: float = 0.3, shape: Shape = "cubic"
) -> Schedule:
    """An early cubic ramp and a long finish on the frozen mask.

    Args:
        total: optimizer steps of the whole run.
        dense: share of them before pruning starts. ramp: share of the rest until the budget is full. finish: share of
            `total` on the frozen mask.

    >>> schedule = auto_schedule(100)
    >>> [round(schedule.ratio(step), 2) for step in (0, 9, 29, 99)], schedule.phase(69), schedule.phase(70)
    ([0.1, 0.7, 1.0, 1.0], 'ramp', 'frozen')
    """
    dense_until = int(dense * total)
    frozen_from = max(_frozen_from(total, finish), dense_until)
    steps = min(round(ramp * (total - dense_until)), frozen_from - dense_until)
    return Schedule(total, dense_until, steps, frozen_from, shape)


def paper_schedule(
    epochs: int, steps_per_epoch: int, *, start: int | None = None, rate: float | None = None, finish: float = 0.0
) -> Schedule:
    """The paper's: s dense epochs, then r = min(1, ε(e − s + 1)) in epoch e; no frozen finish.

    Args:
        start: s in epochs; 16 of 100, scaled to `epochs`.
        rate: ε, share of the budget an epoch; 0.015 at 100 epochs, scaled to `epochs`.

    Raises:
        UsageError: the run ends before the ramp does.

    >>> schedule = paper_schedule(100, 1)
    >>> [round(schedule.ratio(epoch), 3) for epoch in (15, 16, 17, 81, 82)]
    [0.0, 0.015, 0.03, 0.99, 1.0]
    """
    start = round(0.16 * epochs) if start is None else int(start)
    rate = min(1.0, 1.5 / max(epochs, 1)) if rate is None else rate
    reached = rate * (epochs - start)
    if reached < 1 - 1e-9:
        raise UsageError(
            f"with start = {start:g} and rate = {rate:g} a run of {epochs} epochs ends at {max(reached, 0):.1%} of the "
            "zeros, and the rest would go at once, untrained",
            way_out="start earlier, raise the rate, or train longer",
        )
    total = epochs * steps_per_epoch
    dense_until = min(start * steps_per_epoch, total)
    ramp = steps_per_epoch / rate
    return Schedule(total, dense_until, ramp, _frozen_from(total, finish), "linear", steps_per_epoch)


def _frozen_from(total: int, finish: float) -> int:
    """The first frozen step; without a finish the mask stays soft to the end, so that it lies beyond."""
    return total - int(finish * total) if finish > 0 else total + 1
