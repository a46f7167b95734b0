"""Methods against each other by one protocol, run by run, resumable.

    python -m bench.accuracy tune mobilenet         # every method, each of its five settings, on two seeds of their own
    python -m bench.accuracy explore mobilenet      # variants of idp, on seeds that are not judged
    python -m bench.accuracy run mobilenet          # the chosen settings on seeds 0 to 4
    python -m bench.accuracy report                 # tables with paired 95 % intervals, and a plot a problem

All runs of a problem share net, data, epochs, optimizer, rate schedule, prunable weights and allocation; a seed fixes
first weights and data order, so runs are paired. What counts is the accuracy of exact zeros on held-out data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.accuracy.methods import CONTENDERS, MAIN, VARIANTS
from bench.accuracy.problems import PROBLEMS
from bench.accuracy.reporting import report
from bench.accuracy.running import TUNING_SEEDS, Trial, best_settings, fill


def tune(problem: str, methods: Sequence[str], allocation: str) -> list[Trial]:
    """Every candidate of every method on the tuning seeds, at the first sparsity."""
    given = PROBLEMS[problem]
    if given.tuned_on != problem:
        raise SystemExit(f"{problem} is not tuned: its settings are those of {given.tuned_on or 'the product'}")
    tuned = [(method, CONTENDERS[method]) for method in methods if CONTENDERS[method].like is None]
    return [
        Trial.of(method, given.sparsities[0], allocation, seed, settings)
        for seed in TUNING_SEEDS
        for method, contender in tuned
        for settings in contender.candidates
    ]


def explore(problem: str, allocation: str) -> list[Trial]:
    """Variants of idp at every sparsity, and the straight-through control beside them, on seeds that are not judged."""
    trials = []
    for seed in range(TUNING_SEEDS[0], TUNING_SEEDS[0] + 3):
        for sparsity in PROBLEMS[problem].sparsities:
            trials += [Trial.of("idp", sparsity, allocation, seed, variant) for variant in VARIANTS]
            trials.append(Trial.of("topk-ste", sparsity, allocation, seed, {}))
    return trials


def judge(problem: str, methods: Sequence[str], allocation: str, seeds: Sequence[int]) -> list[Trial]:
    """The chosen settings on the judging seeds, seed by seed, so that what is there is always paired."""
    settings = {method: best_settings(problem, method) for method in methods}
    trials = []
    for seed in seeds:
        trials.append(Trial.of("dense", 0.0, "erk", seed, {}))
        for sparsity in PROBLEMS[problem].sparsities:
            trials += [Trial.of(method, sparsity, allocation, seed, chosen) for method, chosen in settings.items()]
    return trials


def main() -> None:
    """Fill in what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "explore", "run", "report"))
    parser.add_argument("problem", choices=PROBLEMS, nargs="?", help="all of them for a report")
    parser.add_argument("--methods", default=",".join(MAIN))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--allocation", default="lamp", help="several, with commas between, are taken one by one")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    given = parser.parse_args()
    if given.what == "report":
        print(report())
        return
    if given.problem is None:
        parser.error(f"say which problem: {', '.join(PROBLEMS)}")
    methods, seeds = given.methods.split(","), [int(seed) for seed in given.seeds.split(",")]
    trials: list[Trial] = []
    for allocation in given.allocation.split(","):
        if given.what == "tune":
            trials += tune(given.problem, methods, allocation)
        elif given.what == "explore":
            trials += explore(given.problem, allocation)
        else:
            trials += judge(given.problem, methods, allocation, seeds)
    fill(given.problem, trials, jobs=given.jobs, minutes=given.minutes)


if __name__ == "__main__":
    main()
