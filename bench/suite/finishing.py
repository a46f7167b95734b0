"""What averages of the weights on the frozen mask, and batch norms recalibrated at the end, are worth to any method.

A run is looked at without being disturbed: the weights of its last steps are averaged beside it, over several shares of
the run, and each average is scored with the statistics of batch norms taken anew over the training data. The zeros are
those of the frozen mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from bench.suite import running
from bench.suite.running import Run, batches, evaluate, pruned, train
from bench.suite.tasks import TASKS, SmallTask

FILE = "finishes.jsonl"
SHARES = (0.05, 0.1, 0.2, 0.29)  # of the run, within the 30 % on the frozen mask


def finish(runs: Sequence[Run]) -> str:
    """Scores of every run and of its averages as a table; those that are not in the file yet are added to it."""
    file = running.RESULTS / FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {Run(**line["run"]): line["scores"] for line in lines}
    torch.set_num_threads(1)
    heads = ["as it ends", "recalibrated", *(f"mean of the last {share:.0%}" for share in SHARES)]
    table = [f"| task | method | {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * len(heads)}"]
    for run in runs:
        if run not in known:
            known[run] = _Watched(run).scores()
            with file.open("a") as out:
                out.write(json.dumps({"run": asdict(run), "scores": known[run], "torch": torch.__version__}) + "\n")
        scores = " | ".join(f"{100 * score:.2f}" for score in known[run].values())
        table.append(f"| {run.task} {run.sparsity:.0%}, seed {run.seed} | {run.method} {run.settings} | {scores} |")
    return "\n".join(table)


class _Watched:
    """A run whose weights are added up on its way."""

    def __init__(self, run: Run) -> None:
        self.run, self.task, self.steps = run, TASKS[run.task], 0
        self.model, self.optimizer, self.pruner = pruned(run)
        self.sums: dict[float, dict[str, torch.Tensor]] = {share: {} for share in SHARES}
        self.counts = dict.fromkeys(SHARES, 0)

    def scores(self) -> dict[str, float]:
        """Of the end and of every average."""
        train(self.task, self.model, self.optimizer, self.task.steps, self.run.seed, self)
        if self.pruner is not None:
            self.pruner.finalize()
        found = {"end": evaluate(self.task, self.model)}
        found["recalibrated"] = _recalibrated(self.task, deepcopy(self.model), self.run.seed)
        for share, sums in self.sums.items():
            model = deepcopy(self.model)
            model.load_state_dict({name: total / self.counts[share] for name, total in sums.items()}, strict=False)
            found[f"last {share}"] = _recalibrated(self.task, model, self.run.seed)
        return {name: round(score, 5) for name, score in found.items()}

    @torch.no_grad()
    def step(self) -> None:
        """The pruner's, then the sums."""
        if self.pruner is not None:
            self.pruner.step()
        self.steps += 1
        for share, sums in self.sums.items():
            if self.steps > (1 - share) * self.task.steps:
                self.counts[share] += 1
                for name, weight in self.model.named_parameters():
                    sums[name] = sums[name] + weight if name in sums else weight.detach().clone()


@torch.no_grad()
def _recalibrated(task: SmallTask, model: nn.Module, seed: int) -> float:
    """The score with batch norms' statistics averaged evenly over one epoch of training data."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        x, y, _, _ = task.data()
        model.train()
        for rows in batches(len(y), task.batch, len(y) // task.batch, seed):
            model(x[rows])
    return evaluate(task, model)
