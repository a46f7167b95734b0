"""One run of a small task, cached: a line of JSON in the task's file, so that the suite can stop anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.suite.plain import plain
from bench.suite.tasks import TASKS, SmallTask
from idp_deploy.pruning import Pruner

RESULTS = Path(__file__).parents[1] / "results" / "suite"


@dataclass(frozen=True)
class Run:
    """What identifies a run; `method` may be "dense"."""

    task: str
    method: str
    sparsity: float
    seed: int
    settings: str = "{}"  # JSON with sorted keys: options of the `Pruner`

    @classmethod
    def of(cls, task: str, method: str, sparsity: float, seed: int, settings: Mapping[str, Any] | None = None) -> Run:
        """With the settings as text, so that runs can be compared."""
        return cls(task, method, sparsity, seed, json.dumps(dict(settings or {}), sort_keys=True))


def known(task: str) -> dict[Run, float]:
    """The score of every finished run of `task`."""
    file = RESULTS / f"{task}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {Run(**line["run"]): line["score"] for line in lines}


def fill(runs: Sequence[Run], minutes: float = 1e9) -> None:
    """Do what is not in the files yet, until the time is up."""
    until = time.monotonic() + 60 * minutes
    have = {run for task in {run.task for run in runs} for run in known(task)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for run in dict.fromkeys(runs):
        if run in have:
            continue
        if time.monotonic() > until:
            return
        began = time.process_time()
        score = one(run)
        seconds = round(time.process_time() - began, 1)
        line = {"run": asdict(run), "score": round(score, 5), "cpu_seconds": seconds, "torch": torch.__version__}
        with (RESULTS / f"{run.task}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(
            f"{score:8.2%}  {run.task} {run.method} {run.sparsity} seed {run.seed} {run.settings} {seconds}s",
            flush=True,
        )


def one(run: Run) -> float:
    """The hardened score on data that training never sees."""
    task = TASKS[run.task]
    model, optimizer, pruner = pruned(run)
    train(task, model, optimizer, task.steps, run.seed, pruner)
    if pruner is not None:
        pruner.finalize()
    return evaluate(task, model)


def pruned(run: Run) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """The net at its start, what trains it, and its pruner: None for "dense"."""
    task = TASKS[run.task]
    model = task.net()
    model.load_state_dict(_start(run.task, run.seed))
    optimizer, pruner = task.optimizer(model), None
    options = {"depthwise": task.depthwise, **task.options, **json.loads(run.settings)}
    if options.get("pattern") == "channel":
        options["example_inputs"] = (task.data()[0][:2],)
    if run.method == "plain":
        pruner = plain(model, sparsity=run.sparsity, steps=task.steps, **options)
    elif run.method != "dense":
        pruner = Pruner(
            model,
            sparsity=run.sparsity,
            epochs=1,
            steps_per_epoch=task.steps,
            method=run.method,
            seed=run.seed,
            optimizer=optimizer if task.told else None,
            **options,
        )
        pruner.prepare()
    return model, optimizer, pruner


def train(
    task: SmallTask, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int, pruner: Any = None
) -> None:
    """A plain loop over batches in an order that `seed` fixes, as is what the loss draws."""
    x, y, _, _ = task.data()
    schedule = task.schedule(optimizer, steps)
    order = batches(len(y), task.batch, steps, seed)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for rows in order:
            optimizer.zero_grad()
            for part in rows.chunk(task.every):
                (task.loss_of(model, x[part], y[part]) / task.every).backward()
            optimizer.step()
            schedule.step()
            if pruner is not None:
                pruner.step()


def batches(count: int, batch: int, steps: int, seed: int) -> list[Tensor]:
    """Row numbers of `steps` batches, epoch after epoch, whole batches only."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while len(found) < steps:
        found += torch.randperm(count, generator=generator)[: count // batch * batch].split(batch)
    return found[:steps]


@torch.no_grad()
def evaluate(task: SmallTask, model: nn.Module) -> float:
    """The score on the test data."""
    _, _, x, y = task.data()
    model.eval()
    return task.score(torch.cat([model(part) for part in x.split(500)]), y)


@cache
def _start(name: str, seed: int) -> dict[str, Tensor]:
    """The weights every method begins with: fresh, or trained for `task.trained` steps."""
    task = TASKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        model = task.net()
    if task.trained:
        train(task.before, model, task.before.optimizer(model), task.trained, 1000 + seed)
    return model.state_dict()
