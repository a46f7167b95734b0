"""Settings to choose from before methods are compared: for every method the same number, at the same cost."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from idp_deploy.errors import UsageError
from idp_deploy.pruning.methods import METHODS
from idp_deploy.pruning.results import Run

Settings = Mapping[str, Any]

FIRST_SEED, SEEDS = 1_000_000, 2  # apart from the judged ones, which count from 0
# when zeros come, beside the defaults; the learning rate is the task's and no method's own
TIMINGS: Mapping[str, Sequence[Any]] = {"dense": (0.1,), "ramp": (0.2, 0.7), "finish": (0.15, 0.45)}
# method → option → values beside its default, none of which makes a run longer; a method without a row has none
OWN: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "idp": {"kappa": (4.0, 30.0), "floor": (0.5, 0.0)},
    "gmp": {"forget": (False,)},
    "pofa": {"forget": (False,)},
    "str": {"threshold_rate": (0.5, 0.2)},
    "optg": {"score_rate": (0.1, 10.0)},
    "movement": {"score_rate": (0.1, 10.0), "scope": ("global",)},
    "lagunas-block": {"score_rate": (0.1, 10.0)},
    "supermask": {"score_rate": (0.1, 10.0)},
    "acdc": {"phases": (4, 10)},
    "granet": {"drop": (0.1, 0.5)},
    "rigl": {"drop": (0.1, 0.5), "start": ("magnitude",)},
    "sr-ste": {"pull": (2e-5, 2e-3)},
}


def settings_of(method: str, mode: str, count: int, fixed: Settings) -> list[Settings]:
    """`count` different settings to try, the first of which is the method as shipped; the same at every call.

    Args:
        fixed: options that were asked for, which are no choice any more.

    Raises:
        UsageError: there are not that many.

    >>> [dict(settings) for settings in settings_of("gmp", "auto", 2, {"forget": True, "dense": 0.1})]
    [{}, {'ramp': 0.7, 'finish': 0.15}]
    """
    timings = {} if mode == "paper" or METHODS[method].ramp == "none" else TIMINGS  # without a ramp nothing waits
    known = {**timings, **OWN.get(method, {})}
    axes = [[(name, value) for value in (None, *values)] for name, values in known.items() if name not in fixed]
    every = [{name: value for name, value in chosen if value is not None} for chosen in product(*axes)]
    if count > len(every):
        raise UsageError(
            f"method {method} has {len(every)} settings to choose from in mode {mode}, not {count}",
            way_out=f"give --tune {len(every)} at most, fix fewer options, or leave the method out",
        )
    return [every[0], *random.Random(method).sample(every[1:], count - 1)]


def best(runs: Sequence[Run], candidates: Sequence[Settings]) -> Settings:
    """The settings with the highest mean accuracy; of equals the earliest, so that shipped ones stay without a reason.

    >>> best([Run("idp", 0.9, 0, 0.8, 0.9), Run("idp", 0.9, 0, 0.9, 0.9, {"kappa": 4.0})], [{}, {"kappa": 4.0}])
    {'kappa': 4.0}
    """

    def mean(settings: Settings) -> float:
        scores = [run.accuracy for run in runs if run.settings == settings]
        return sum(scores) / len(scores)

    return max(candidates, key=mean)
