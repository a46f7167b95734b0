"""What a mask has left undecided at the last step before it is frozen, and what hardening makes of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import nn

from bench.suite import running
from bench.suite.running import Run, evaluate, pruned, train
from bench.suite.tasks import TASKS, SmallTask
from idp_deploy.pruning import Pruner

FILE = "freezes.jsonl"


def freeze(runs: Sequence[Run]) -> str:
    """Figures of every run as a table; those that are not in the file yet are added to it.

    `undecided` counts entries with 0.05 < m < 0.95, as a share of those that will be kept; `dead` are rows of which the
    mask keeps nothing (m < 0.5); `soft` and `hard` are scores at that moment, `score` is that of the end.
    """
    file = running.RESULTS / FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {Run(**line["run"]): line for line in lines}
    torch.set_num_threads(1)
    table = [
        "| task | method | undecided | dead | soft | hard | score |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in runs:
        if run not in known:
            known[run] = {"run": asdict(run), **_Watched(run).figures()}
            with file.open("a") as out:
                out.write(json.dumps(known[run]) + "\n")
        of = known[run]
        scores = " | ".join(f"{100 * of[name]:.1f}" for name in ("soft", "hard", "score"))
        what = f"{run.task} {run.sparsity:.0%} | {run.method} {run.settings}"
        table.append(f"| {what} | {of['undecided']:.2f} | {of['dead']} | {scores} |")
    return "\n".join(table)


class _Watched:
    """A pruner that is looked at once on its way."""

    def __init__(self, run: Run) -> None:
        model, self.optimizer, pruner = pruned(run)
        assert isinstance(pruner, Pruner)
        self.run, self.model, self.pruner, self.found = run, model, pruner, dict[str, float]()

    def figures(self) -> dict[str, float]:
        """Of the whole run."""
        task = TASKS[self.run.task]
        train(task, self.model, self.optimizer, task.steps, self.run.seed, self)
        self.pruner.finalize()
        return {**self.found, "score": round(evaluate(task, self.model), 5)}

    def step(self) -> None:
        """The pruner's, and a look where the next one freezes."""
        self.pruner.step()
        if self.pruner.steps == self.pruner.schedule.frozen_from - 1:
            self.found = _look(TASKS[self.run.task], self.model, self.pruner)
            self.model.train()


@torch.no_grad()
def _look(task: SmallTask, model: nn.Module, pruner: Pruner) -> dict[str, float]:
    soft = evaluate(task, model)
    with pruner.hardened() as module:
        hard = evaluate(task, module)
    undecided = dead = 0
    for site in pruner.sites:
        weight = site.live().detach()
        m = torch.where(weight == 0, 1.0, site.read(weight) / weight)
        undecided += int(((m > 0.05) & (m < 0.95)).sum())
        dead += int((m.movedim(site.where.output_axis, 0).flatten(1).amax(1) < 0.5).sum())
    report = pruner.report()
    kept = report.prunable - report.zeros
    return {"undecided": round(undecided / kept, 4), "dead": dead, "soft": round(soft, 5), "hard": round(hard, 5)}
