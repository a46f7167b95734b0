"""What is compared: every method with the same number of settings to choose from, and the controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from idp_deploy.pruning.methods import METHODS

Settings = Mapping[str, Any]

# when pruning starts, how long the ramp is, and the share of the run on the frozen mask: four settings for everybody
TIMINGS: tuple[Settings, ...] = (
    {"dense": 0.1, "ramp": 0.3, "finish": 0.3},
    {"dense": 0.1, "ramp": 0.6, "finish": 0.3},
    {"dense": 0.2, "ramp": 0.5, "finish": 0.3},
    {"dense": 0.2, "ramp": 0.8, "finish": 0.1},
)
MIDDLE = TIMINGS[2]


@dataclass(frozen=True, eq=False)
class Contender:
    """A row of METHODS, or a control, and a fifth setting of its own."""

    method: str
    fifth: Settings = field(default_factory=dict)  # beside the middle timing
    fixed: Settings = field(default_factory=dict)  # part of what it is
    mode: str = "auto"
    like: str | None = None  # whose settings a control takes, so that it differs in one thing only

    @property
    def candidates(self) -> tuple[Settings, ...]:
        """The settings that tuning tries; an empty one where there is nothing to choose."""
        at_once = METHODS[self.method].ramp == "none" and self.method != "acdc"
        if self.mode == "paper" or at_once:
            return ({},)
        return (*TIMINGS, {**MIDDLE, **self.fifth} if self.fifth else {"dense": 0.3, "ramp": 0.5, "finish": 0.2})


CONTENDERS = {
    "idp": Contender("idp", {"clip": False}),
    "gmp": Contender("gmp", {"forget": False}),
    "str": Contender("str", {"threshold_rate": 0.5}),
    "optg": Contender("optg", {"score_rate": 0.1}),
    "movement": Contender("movement", {"scope": "global"}),
    "acdc": Contender("acdc", {"phases": 10}),
    "granet": Contender("granet", {"drop": 0.5}),
    # controls
    "topk-ste": Contender("topk-ste"),
    "idp-detached": Contender("idp", fixed={"detach": True}, like="idp"),
    "random": Contender("random", like="idp"),
    # patterns of their own
    "sr-ste": Contender("sr-ste"),
    # shown on the first problem only
    "idp-paper": Contender("idp", mode="paper"),
    "pofa": Contender("pofa"),
    "rigl": Contender("rigl"),
    "synflow": Contender("synflow"),
    "grasp": Contender("grasp"),
    "supermask": Contender("supermask"),
    "lottery": Contender("lottery"),
}
# what else idp could be, beside what is shipped: tried on the seeds of tuning, never judged
VARIANTS: tuple[Settings, ...] = (
    {},
    {"floor": 0.0},
    {"floor": 1.0},
    {"kappa": 4.0},
    {"kappa": 30.0},
    {"kappa": 30.0, "floor": 1.0},
    {"kappa_end": 100.0},
    {"clip": False},
    {"finish": 0.15},
)
MAIN = ("idp", "gmp", "str", "optg", "movement", "acdc", "granet", "topk-ste", "idp-detached", "random")
