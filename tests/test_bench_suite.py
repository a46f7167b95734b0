"""The suite of small tasks: its reference, its split, its files and its ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.suite import reporting, running
from bench.suite.plain import plain
from bench.suite.running import Run, batches, fill, known, one
from bench.suite.tasks import CHOOSING, FOREIGN, JUDGING, TASKS, TUNING
from idp_deploy.pruning import Pruner


def test_idp_with_the_settings_of_plain_idp_takes_its_steps() -> None:
    task, weights, steps = TASKS["digits-separable"], [], 40
    x, y = (part.double() if part.is_floating_point() else part for part in task.data()[:2])
    for kind in ("plain", "product"):
        torch.manual_seed(0)
        model = task.net().double()
        pruner = (
            plain(model, sparsity=0.8, steps=steps, depthwise=True, staged=False, row_floor=True)
            if kind == "plain"
            else Pruner(
                model, sparsity=0.8, epochs=steps, allocation="erk", depthwise=True,
                dense=0.15, ramp=6 / 17, floor=0.0, floor_end=0.0, rows=False,
            )
        )  # fmt: skip
        if isinstance(pruner, Pruner):
            pruner.prepare()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        for rows in batches(len(y), 32, steps, seed=0):
            optimizer.zero_grad()
            task.loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
            pruner.step()
        pruner.finalize()
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-6, atol=1e-9)


def test_no_task_that_judges_was_tuned_on() -> None:
    assert not set(TUNING) & set(JUDGING)
    assert not set(CHOOSING) & set(FOREIGN)
    assert len(JUDGING) >= 10


def test_parts_of_a_batch_give_the_steps_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for every in (1, 4):
        task = replace(FOREIGN["untold-adamw"], steps=3, every=every)
        monkeypatch.setitem(TASKS, task.says, task)
        model, optimizer, pruner = running.pruned(Run.of(task.says, "idp", 0.9, 0))
        running.train(task, model, optimizer, task.steps, 0, pruner)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([task.pace(1) * 3e-3])
        assert pruner.method.settings["kappa"] == 100  # by its first step
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.wide
@pytest.mark.filterwarnings("ignore:.*do not train")  # where only the head learns
@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_trained_pruned_and_scored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running._start.cache_clear()
    monkeypatch.setitem(TASKS, name, replace(TASKS[name], steps=3, trained=min(TASKS[name].trained, 2)))
    assert one(Run.of(name, "idp", TASKS[name].sparsities[0], 0)) <= 1
    running._start.cache_clear()


def test_a_run_in_the_file_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RESULTS", tmp_path)
    done: list[Run] = []
    monkeypatch.setattr(running, "one", lambda run: done.append(run) or 0.5)
    runs = [Run.of("outlines", method, 0.9, 0) for method in ("idp", "gmp")]
    fill(runs[:1])
    fill(runs)
    assert done == runs
    assert known("outlines") == dict.fromkeys(runs, 0.5)


def test_the_critical_difference_is_that_of_the_tables() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.4]] * 7)
    ranks, reach, _ = reporting.critical_difference(scores)
    assert ranks == pytest.approx([1, 2.25, 3.5, 3.25])
    assert reach == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)  # Demšar 2006, table 5


def test_the_report_ranks_the_tasks_that_every_method_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RESULTS", tmp_path)
    for offset, task in enumerate(("outlines", "glyphs-few", "curves-normed")):
        for method, score in (("idp", 0.8), ("gmp", 0.7), ("topk-ste", 0.6)):
            value = score + 0.01 * offset
            monkeypatch.setattr(running, "one", lambda run, value=value: value + 0.001 * run.seed)
            fill([Run.of(task, method, TASKS[task].sparsities[0], seed) for seed in (0, 1)])
    text = reporting.report()
    assert "| `idp` | 1.00 |" in text
    assert "**+10.0 ± 0.0**" in text
    assert (tmp_path / "ranks.png").stat().st_size > 1000
