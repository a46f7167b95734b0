"""How far a run is, in epochs as well as in steps: a state that goes on with another batch size or more epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idp_deploy.errors import UsageError, warn
from idp_deploy.pruning.schedule import Schedule


@dataclass(frozen=True)
class Pace:
    """So many optimizer steps in so many epochs, from the step on at which a run took to it."""

    epochs: int  # of the whole run
    total: int  # steps that as many take
    since: int = 0  # the step
    done: float = 0.0  # epochs that were done by then

    def left(self, step: int, at: Pace) -> float:
        """Steps to come at this pace for a run that has taken `step` of them, so far at another one.

        >>> Pace(6, 24).left(24, Pace(6, 48)), Pace(8, 64).left(24, Pace(6, 48))
        (12.0, 40.0)
        """
        return (self.epochs - at.epochs_at(step)) * self.total / self.epochs

    def epochs_at(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return self.done + (step - self.since) * self.epochs / self.total


def resumed(
    state: Mapping[str, Any], ours: Pace, per_stage: int = 1, left: float | None = None
) -> tuple[Schedule, Pace]:
    """What a pruner's state goes on with; where another length is planned, its schedule stretched, with a warning.

    Args:
        ours: the plan of the pruner that loads it; per_stage: of that plan's schedule. left: optimizer steps to come
            by a plan that is another, where they are known; otherwise those of the epochs that are not done.

    Raises:
        UsageError: by this plan nothing is left to train, and the state is not at its end.
    """
    schedule, step = Schedule(**state["schedule"]), int(state["steps"])
    # earlier versions kept no pace
    theirs = Pace(**state["pace"]) if "pace" in state else Pace(ours.epochs, schedule.total)
    if (theirs.epochs, theirs.total) == (ours.epochs, ours.total):
        return schedule, theirs
    steps, rest = round(ours.left(step, theirs) if left is None else left), schedule.total - step
    pace = Pace(ours.epochs, ours.total, step, ours.epochs - steps * ours.epochs / ours.total)
    if steps == rest or (steps <= 0 and rest <= 0):
        return schedule, pace
    was = f"{schedule.total} steps ({theirs.epochs} epochs), of which {step} were taken"
    if steps <= 0:
        raise UsageError(
            f"the state was planned for {was}, and {ours.total} in {ours.epochs} epochs leave nothing to train",
            way_out="plan the epochs of the whole run, with those that are done; or say by load_state_dict(state, "
            "left=…) how many optimizer steps are to come",
        )
    warn(
        f"the state was planned for {was}, and this training has {ours.total} ({ours.epochs} epochs): what is left of "
        f"the ramp and of the frozen finish is stretched over {steps} steps to come, in place of {max(rest, 0)}",
        "plan the epochs of the whole run, with those that are done; or say by load_state_dict(state, left=…) how many "
        "optimizer steps are to come",
    )
    return schedule.stretched(step, steps, per_stage), pace
