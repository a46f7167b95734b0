"""One run, cached: a line of JSON in the problem's file, so that a bench stopped anywhere goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.accuracy.methods import CONTENDERS, Settings
from bench.accuracy.problems import PROBLEMS
from idp_deploy.flow import Recipe
from idp_deploy.pruning.comparing import score

RESULTS = Path(__file__).parents[1] / "results" / "accuracy"
TUNING_SEEDS = (100, 101)


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

    @property
    def judged(self) -> bool:
        """Whether its seed is none of those that settings are chosen on."""
        return self.seed < min(TUNING_SEEDS)

    def __str__(self) -> str:
        return f"{self.method:13} {self.sparsity:5} {self.allocation:6} seed {self.seed:3}  {self.settings}"


def known(problem: str) -> dict[Trial, float]:
    """Hardened accuracy of every finished run."""
    file = RESULTS / f"{problem}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {Trial(**line["trial"]): line["accuracy"] for line in lines}


def fill(problem: str, trials: Sequence[Trial], *, jobs: int = 1, minutes: float = 1e9) -> None:
    """Run what is not in the problem's file yet, each result a line there as soon as it is known.

    Args:
        jobs: processes, one thread each.
        minutes: start no further run after this long.
    """
    have = known(problem)
    missing = [trial for trial in dict.fromkeys(trials) if trial not in have]
    if not missing:
        return
    PROBLEMS[problem].task()  # drawn once, shared by all processes
    RESULTS.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * minutes
    one = partial(_line, problem, until)
    with ExitStack() as stack:
        file = stack.enter_context((RESULTS / f"{problem}.jsonl").open("a"))
        several = stack.enter_context(get_context("fork").Pool(jobs)).imap_unordered if jobs > 1 else map
        for line in several(one, missing):
            if line is None:
                continue
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{line['accuracy']:7.2%}  {Trial(**line['trial'])}", flush=True)


def _line(problem: str, until: float, trial: Trial) -> dict[str, Any] | None:
    """One run as it stands in the file; None where the time is up."""
    if time.monotonic() > until:
        return None
    torch.set_num_threads(1)
    given = PROBLEMS[problem]
    contender = CONTENDERS["idp" if trial.method == "dense" else trial.method]
    settings = json.loads(trial.settings)
    recipe = Recipe(
        sparsity=0.0 if trial.method == "dense" else trial.sparsity,
        method=contender.method,
        mode=contender.mode,
        allocation=trial.allocation,
        pattern="unstructured" if trial.method == "dense" else given.pattern,
        skip=given.skip,
        epochs=given.epochs,
        seed=trial.seed,
        options={"learning_rate": given.learning_rate, **given.options, **contender.fixed, **settings},
    )
    model, task = given.start(trial.seed), given.task()
    began = time.process_time()
    run = score(model, task, recipe)
    return {
        "trial": asdict(trial),
        "accuracy": run.accuracy,
        "realised": run.realised,
        "cpu_seconds": round(time.process_time() - began, 1),
        "torch": torch.__version__,
    }


def best_settings(problem: str, method: str) -> Settings:
    """What did best on the tuning seeds, at the first sparsity of the problem that is tuned on; as shipped without."""
    source, contender = PROBLEMS[problem].tuned_on, CONTENDERS[method]
    if source is None:
        return {}
    if contender.like is not None:
        return best_settings(problem, contender.like)
    have, sparsity = known(source), PROBLEMS[source].sparsities[0]

    def mean(settings: Settings) -> float:
        text = json.dumps(dict(settings), sort_keys=True)
        scores = [
            accuracy
            for trial, accuracy in have.items()
            if (trial.method, trial.sparsity, trial.settings) == (method, sparsity, text) and trial.seed in TUNING_SEEDS
        ]
        return sum(scores) / len(scores) if scores else -1.0

    return max(contender.candidates, key=mean)
