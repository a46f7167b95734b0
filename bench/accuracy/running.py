"""One run, cached: a line of JSON in the problem's file, so that a bench stopped anywhere goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.accuracy.methods import CONTENDERS, Settings
from bench.accuracy.problems import PROBLEMS
from idp_deploy.flow import Recipe
from idp_deploy.pruning.comparing import score

RESULTS = Path(__file__).parents[1] / "results" / "accuracy"
TUNING_SEED = 100


@dataclass(frozen=True)
class Trial:
    """What identifies a run, in its order of importance."""

    method: str  # a row of CONTENDERS, or "dense"
    sparsity: float
    allocation: str
    seed: int
    settings: str  # JSON with sorted keys

    @classmethod
    def of(cls, method: str, sparsity: float, allocation: str, seed: int, settings: Settings) -> Trial:
        """With the settings as text, so that trials can be compared."""
        return cls(method, sparsity, allocation, seed, json.dumps(dict(settings), sort_keys=True))


def known(problem: str) -> dict[Trial, float]:
    """Hardened accuracy of every finished run."""
    file = RESULTS / f"{problem}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {Trial(**line["trial"]): line["accuracy"] for line in lines}


def accuracy(problem: str, trial: Trial, told: Callable[[str], None]) -> float:
    """Hardened accuracy of one trial, from the file where it is there."""
    have = known(problem)
    if trial not in have:
        given = PROBLEMS[problem]
        contender = CONTENDERS["idp" if trial.method == "dense" else trial.method]
        options = {
            "learning_rate": given.learning_rate,
            **given.options,
            **contender.fixed,
            **json.loads(trial.settings),
        }
        recipe = Recipe(
            sparsity=0.0 if trial.method == "dense" else trial.sparsity,
            method=contender.method,
            mode=contender.mode,
            allocation=trial.allocation,
            pattern="unstructured" if trial.method == "dense" else given.pattern,
            skip=given.skip,
            epochs=given.epochs,
            seed=trial.seed,
            options=options,
        )
        model, task = given.start(trial.seed), given.task()
        began = time.process_time()
        run = score(model, task, recipe)
        line = {
            "trial": asdict(trial),
            "accuracy": run.accuracy,
            "realised": run.realised,
            "cpu_seconds": round(time.process_time() - began, 1),
            "torch": torch.__version__,
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        with (RESULTS / f"{problem}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        have[trial] = run.accuracy
        told(
            f"{trial.method:13} {trial.sparsity:5} {trial.allocation:6} seed {trial.seed:3}  {run.accuracy:7.2%}  "
            f"{trial.settings}"
        )
    return have[trial]


def best_settings(problem: str, method: str) -> Settings:
    """What did best on the tuning seed, at the first sparsity of the problem that is tuned on; as shipped without."""
    source, candidates = PROBLEMS[problem].tuned_on, CONTENDERS[method].candidates
    if source is None:
        return {}
    have, sparsity = known(source), PROBLEMS[source].sparsities[0]
    found = [have.get(Trial.of(method, sparsity, "erk", TUNING_SEED, settings), -1.0) for settings in candidates]
    return candidates[found.index(max(found))]
