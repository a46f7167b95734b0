"""Methods against each other by one protocol, run by run, resumable.

    python -m bench.accuracy tune mobilenet         # every method, each of its four settings, on a seed of its own
    python -m bench.accuracy explore mobilenet      # variants of idp, on seeds that are not judged
    python -m bench.accuracy run mobilenet          # the chosen settings on seeds 0 to 4
    python -m bench.accuracy report                 # tables with paired 95 % intervals, and a plot a problem

All runs of a problem share net, data, epochs, optimizer, rate schedule, prunable weights and allocation; a seed fixes
first weights and data order, so runs are paired. What counts is the accuracy of exact zeros on held-out data.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

from bench.accuracy.methods import CONTENDERS, MAIN, VARIANTS
from bench.accuracy.problems import PROBLEMS
from bench.accuracy.reporting import report
from bench.accuracy.running import TUNING_SEED, Trial, accuracy, best_settings


def tune(problem: str, methods: list[str], until: float) -> None:
    """Every candidate of every method on the tuning seed."""
    sparsity = PROBLEMS[problem].sparsities[0]
    if PROBLEMS[problem].tuned_on != problem:
        raise SystemExit(
            f"{problem} is not tuned: its settings are those of {PROBLEMS[problem].tuned_on or 'the product'}"
        )
    for method in methods:
        for settings in CONTENDERS[method].candidates:
            if time.monotonic() < until:
                accuracy(problem, Trial.of(method, sparsity, "erk", TUNING_SEED, settings), partial(print, flush=True))


def explore(problem: str, allocation: str, until: float) -> None:
    """Variants of idp at both sparsities, and the straight-through control beside them, on the tuning seeds."""
    for seed in range(TUNING_SEED, TUNING_SEED + 3):
        for sparsity in PROBLEMS[problem].sparsities:
            trials = [Trial.of("idp", sparsity, allocation, seed, variant) for variant in VARIANTS]
            trials.append(Trial.of("topk-ste", sparsity, allocation, seed, {}))
            for trial in trials:
                if time.monotonic() < until:
                    accuracy(problem, trial, partial(print, flush=True))


def run(problem: str, methods: list[str], seeds: list[int], until: float, allocation: str = "erk") -> None:
    """The chosen settings on the judging seeds, seed by seed, so that what is there is always paired."""
    for seed in seeds:
        for sparsity in PROBLEMS[problem].sparsities:
            settings = {method: best_settings(problem, method) for method in methods}
            trials = [Trial.of("dense", 0.0, "erk", seed, {})]
            trials += [Trial.of(method, sparsity, allocation, seed, chosen) for method, chosen in settings.items()]
            for trial in trials:
                if time.monotonic() < until:
                    accuracy(problem, trial, partial(print, flush=True))


def main() -> None:
    """Fill in what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "explore", "run", "report"))
    parser.add_argument("problem", choices=PROBLEMS, nargs="?", help="all of them for a report")
    parser.add_argument("--methods", default=",".join(MAIN))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--allocation", default="erk")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "report":
        print(report())
        return
    if given.problem is None:
        parser.error(f"say which problem: {', '.join(PROBLEMS)}")
    methods, seeds = given.methods.split(","), [int(seed) for seed in given.seeds.split(",")]
    until = time.monotonic() + given.minutes * 60
    if given.what == "tune":
        tune(given.problem, methods, until)
    elif given.what == "explore":
        explore(given.problem, given.allocation, until)
    else:
        run(given.problem, methods, seeds, until, given.allocation)


if __name__ == "__main__":
    main()
