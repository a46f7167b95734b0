"""Every method on many small tasks: defaults are chosen on some of them and judged on the others.

    python -m bench.suite try '{"floor": 0}'     # settings of idp beside the shipped ones, on tuning tasks and seeds
    python -m bench.suite bisect                 # plain IDP and idp, one difference at a time, on the task for that
    python -m bench.suite run                    # every method as shipped on the judging tasks, seeds 0 to 4
    python -m bench.suite recurrent              # idp, gmp and topk-ste on GRU and LSTM, and their table
    python -m bench.suite report                 # mean ranks with their critical difference, and a table a task

Runs are paired by seed: first weights and order of the data are those of every method. What counts is the score of
exact zeros on data that training never sees. The suite stops anywhere and goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.suite.reporting import recurrent, report, tried
from bench.suite.running import Run, fill
from bench.suite.tasks import JUDGING, RECURRENT, STUDIED, TUNING, SmallTask

METHODS = ("idp", "gmp", "granet", "topk-ste", "str", "optg", "movement", "acdc")
FORMER = ("idp", {"floor": 0.5, "floor_end": 0.5, "refresh": 8})  # its defaults before they were chosen here
# from plain IDP to idp, and what else there is at the same budgets
EARLY, ERK = {"dense": 0.15, "ramp": 6 / 17}, {"allocation": "erk"}
BISECTION: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("plain", {}),
    ("plain", {"staged": False}),
    ("plain", {"row_floor": True}),
    ("plain", {"bake": True}),
    ("idp", {**ERK, **EARLY, "floor": 0.0}),
    ("idp", {**ERK, "floor": 0.0}),
    ("idp", {**ERK, **FORMER[1]}),
    ("idp", ERK),
    ("topk-ste", ERK),
    ("gmp", ERK),
    ("granet", ERK),
    ("dense", {}),
)
TUNING_SEEDS = (100, 101, 102)


def main() -> None:
    """Fill in what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("try", "bisect", "run", "recurrent", "report"))
    parser.add_argument("settings", nargs="*", help="with try: JSON objects of options of idp")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--tasks", default=",".join(JUDGING), help="some of the judging tasks")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    given = parser.parse_args()
    if given.what == "report":
        print(report())
    elif given.what == "try":
        variants = [json.loads(text) for text in given.settings]
        fill(
            [
                Run.of(name, "idp", sparsity, seed, settings)
                for settings in variants
                for seed in TUNING_SEEDS
                for name, task in TUNING.items()
                for sparsity in task.sparsities
            ],
            given.minutes,
        )
        print(tried(TUNING))
    elif given.what == "bisect":
        fill(
            [
                Run.of("six-blocks", method, 0.95, int(seed), settings)
                for seed in given.seeds.split(",")
                for method, settings in BISECTION
            ],
            given.minutes,
        )
        print(tried(STUDIED))
    elif given.what == "recurrent":
        fill(_shipped(RECURRENT, given.seeds, ("idp", "gmp", "topk-ste")), given.minutes)
        print(recurrent())
    else:
        chosen = {name: JUDGING[name] for name in given.tasks.split(",")}
        fill(_shipped(chosen, given.seeds, given.methods.split(","), [FORMER]), given.minutes)


def _shipped(
    tasks: Mapping[str, SmallTask],
    seeds: str,
    methods: Sequence[str],
    besides: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> list[Run]:
    """Seed after seed: the dense net once, every method as shipped and what stands `besides` at every sparsity."""
    return [
        Run.of(name, method, sparsity, int(seed), settings)
        for seed in seeds.split(",")
        for name, task in tasks.items()
        for sparsity in task.sparsities
        for method, settings in [("dense", {}), *((name, {}) for name in methods), *besides]
        if method != "dense" or sparsity == task.sparsities[0]
    ]


if __name__ == "__main__":
    main()
