"""Every method on many small tasks: defaults are chosen on some of them and judged on the others.

    python -m bench.suite try '{"floor": 0}'     # settings of idp beside the shipped ones, on tuning tasks and seeds
    python -m bench.suite bisect                 # plain IDP and idp, one difference at a time, on the task for that
    python -m bench.suite freeze                 # how far soft and hard masks are apart where they are frozen
    python -m bench.suite finish                 # what averages of the last weights are worth, on tuning seeds
    python -m bench.suite run                    # every method as shipped on the judging tasks, seeds 0 to 4
    python -m bench.suite channels               # idp, gmp, l1-channel and topk-ste on whole channels, and their table
    python -m bench.suite recurrent              # idp, gmp and topk-ste on GRU and LSTM, and their table
    python -m bench.suite unseen                 # idp, gmp, granet and topk-ste on nets of other kinds, and their table
    python -m bench.suite regimes                # idp, gmp and topk-ste in other ways of training, and their table
    python -m bench.suite report                 # mean ranks with their critical difference, and a table a task

Runs are paired by seed: first weights and order of the data are those of every method. What counts is the score of
exact zeros on data that training never sees. The suite stops anywhere and goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.suite import channels
from bench.suite.finishing import finish
from bench.suite.freezing import freeze
from bench.suite.reporting import BEFORE, before, recurrent, report, tried
from bench.suite.running import Run, fill
from bench.suite.tasks import FOREIGN, JUDGING, RECURRENT, STUDIED, TUNING, UNSEEN

METHODS = ("idp", "gmp", "granet", "topk-ste", "str", "optg", "movement", "acdc")
# from plain IDP to idp, and what else there is at the same budgets
EARLY, ERK = {"dense": 0.15, "ramp": 6 / 17}, {"allocation": "erk"}
BISECTION: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("plain", {}),
    ("plain", {"staged": False}),
    ("plain", {"row_floor": True}),
    ("plain", {"bake": True}),
    ("idp", {**ERK, **EARLY, "floor": 0.0, "rows": False}),
    ("idp", {**ERK, "floor": 0.0, "rows": False}),
    ("idp", {**ERK, "floor": 0.5, "floor_end": 0.5, "refresh": 8, "rows": False}),
    ("idp", {**ERK, "rows": False}),
    ("idp", ERK),
    ("topk-ste", ERK),
    ("gmp", ERK),
    ("granet", ERK),
    ("dense", {}),
)
# from former defaults to those of today, and without softness: with SGD, and with AdamW
FROZEN_SGD: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("idp", {"rows": False}),
    ("idp", {}),
    ("idp", {"kappa_end": 100.0}),
    ("topk-ste", {}),
)
FROZEN: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("idp", BEFORE),
    ("idp", {**BEFORE, "rows": True}),
    ("idp", {**BEFORE, "rows": True, "floor_end": 1.0}),
    ("idp", {"kappa": 10.0}),
    ("idp", {"kappa": 10.0, "kappa_end": 100.0}),
    ("idp", {}),
    ("topk-ste", {}),
)
TUNING_SEEDS = (100, 101, 102)
WHAT = ("try", "bisect", "freeze", "finish", "run", "recurrent", "channels", "unseen", "regimes", "report")


def compared(tasks: Mapping[str, Any], seeds: str, methods: Sequence[str] = ("idp", "gmp", "topk-ste")) -> list[Run]:
    """Every method on every task at each of its shares of zeros, and once the dense net."""
    return [
        Run.of(name, method, sparsity, int(seed))
        for seed in seeds.split(",")
        for name, task in tasks.items()
        for sparsity in task.sparsities
        for method in ("dense", *methods)
        if method != "dense" or sparsity == task.sparsities[0]
    ]


def main() -> None:
    """Fill in what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("settings", nargs="*", help="with try: JSON objects of options of idp")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--tasks", default=",".join(JUDGING), help="some of the judging tasks")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    given = parser.parse_args()
    if given.what == "report":
        print(report())
    elif given.what == "freeze":
        cells = {
            ("keywords-separable", 0.9): FROZEN,
            ("curves-perceptron", 0.95): FROZEN,
            ("keywords-plain", 0.9): FROZEN_SGD,
        }
        print(
            freeze(
                [Run.of(task, method, zeros, 100, how) for (task, zeros), ways in cells.items() for method, how in ways]
            )
        )
    elif given.what == "finish":
        small = ("keywords-plain", "glyphs-trained", "glyphs-separable", "curves-tuned", "keywords-trained")
        ways = [("six-blocks", "idp", 0.95, 10, ERK)]
        ways += [(name, "idp", TUNING[name].sparsities[-1], 100, {}) for name in small]
        print(finish([Run.of(*way) for way in ways]))
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
    elif given.what == "channels":
        fill(channels.runs([int(seed) for seed in given.seeds.split(",")]), given.minutes)
        print(channels.table())
    elif given.what == "unseen":
        fill(compared(UNSEEN, given.seeds, ("idp", "gmp", "granet", "topk-ste")), given.minutes)
        print(report(UNSEEN, "unseen"))
    elif given.what == "regimes":
        fill(compared(FOREIGN, given.seeds), given.minutes)
        print(report(FOREIGN, "regimes"))
    elif given.what == "recurrent":
        fill(compared(RECURRENT, given.seeds), given.minutes)
        print(recurrent())
    else:
        shipped: list[tuple[str, Mapping[str, Any]]] = [(name, {}) for name in given.methods.split(",")]
        fill(
            [
                Run.of(name, method, sparsity, int(seed), settings)
                for seed in given.seeds.split(",")
                for name, task in ((name, JUDGING[name]) for name in given.tasks.split(","))
                for sparsity in task.sparsities
                for method, settings in [("dense", {}), *shipped, ("idp", before(name))]
                if method != "dense" or sparsity == task.sparsities[0]
            ],
            given.minutes,
        )


if __name__ == "__main__":
    main()
