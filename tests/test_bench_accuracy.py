"""The accuracy bench: what it reads from its files, chooses and says; the training itself is tested elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench.accuracy import problems, reporting, running
from bench.accuracy.methods import CONTENDERS, MAIN, TIMINGS
from bench.accuracy.running import TUNING_SEEDS, Trial
from idp_deploy.pruning.options import check_options
from idp_deploy.tasks import Task


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (running, reporting):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


class Dots(Task):
    """Four directions in eight dimensions."""

    def train_loader(self, seed: int) -> DataLoader[Any]:
        points = torch.eye(8)[:4].repeat(16, 1)
        return DataLoader(TensorDataset(points, torch.arange(4).repeat(16)), 16)

    def validation_loader(self) -> DataLoader[Any]:
        return self.train_loader(0)


def write(file: Path, runs: dict[Trial, float]) -> None:
    lines = [json.dumps({"trial": asdict(trial), "accuracy": value}) for trial, value in runs.items()]
    file.write_text("\n".join(lines) + "\n")


def test_every_contender_has_settings_its_method_knows() -> None:
    for contender in CONTENDERS.values():
        for settings in contender.candidates:
            check_options(contender.method, contender.mode, {**contender.fixed, **settings})
    tuned = [CONTENDERS[name] for name in MAIN if CONTENDERS[name].like is None]
    assert {len(contender.candidates) for contender in tuned} == {len(TIMINGS) + 1}


def test_a_run_in_the_file_is_not_repeated(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial.of("gmp", 0.95, "erk", 0, {"dense": 0.2})
    write(results / "mobilenet.jsonl", {trial: 0.25})
    running.fill("mobilenet", [trial, trial])
    assert capsys.readouterr().out == ""
    assert running.known("mobilenet") == {trial: 0.25}


def test_what_is_missing_is_run_and_kept(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = problems.Problem(lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 4)), lambda: Dots(), (0.5,), 1, 0.1)
    monkeypatch.setitem(problems.PROBLEMS, "tiny", tiny)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # this process has other tests to run
    trials = [Trial.of(method, 0.5, "erk", seed, {}) for method in ("idp", "gmp") for seed in range(2)]
    running.fill("tiny", trials, minutes=0)
    assert running.known("tiny") == {}
    running.fill("tiny", trials)
    assert set(running.known("tiny")) == set(trials)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_best_on_the_tuning_seed_is_chosen(results: Path) -> None:
    tried = CONTENDERS["gmp"].candidates
    scores = {
        Trial.of("gmp", 0.95, "lamp", seed, settings): 0.1 * i + 0.3 * (i == 1 and seed == TUNING_SEEDS[0])
        for i, settings in enumerate(tried)
        for seed in TUNING_SEEDS
    }
    scores[Trial.of("gmp", 0.95, "lamp", 0, tried[0])] = 0.9  # a judging seed has no say
    write(results / "mobilenet.jsonl", scores)
    assert running.best_settings("mobilenet", "gmp") == tried[-1]
    assert running.best_settings("resnet", "gmp") == tried[-1]
    assert running.best_settings("mobilenet-trained", "gmp") == {}
    assert running.best_settings("mobilenet", "idp-detached") == running.best_settings("mobilenet", "idp")


def test_the_report_says_who_is_ahead_and_by_how_much(results: Path) -> None:
    runs = {Trial.of("dense", 0.0, "erk", seed, {}): 0.6 + 0.01 * seed for seed in range(3)}
    for seed in range(3):
        runs[Trial.of("idp", 0.95, "erk", seed, {})] = 0.5 + 0.01 * seed
        runs[Trial.of("gmp", 0.95, "erk", seed, {})] = 0.4 + 0.01 * seed
        runs[Trial.of("str", 0.95, "erk", seed, {})] = 0.5 + (0.03, 0.01, -0.01)[seed]
    runs[Trial.of("gmp", 0.95, "erk", TUNING_SEEDS[0], {})] = 0.99
    write(results / "mobilenet.jsonl", runs)
    text = reporting.report()
    assert "| gmp | 41.00 % | 3 | +10.00 [+10.00, +10.00] | better |" in text
    assert "| str | 51.00 % | 3 | +0.00 [" in text
    assert "tie |" in text
    assert "dense − idp: +10.00" in text
    assert (results / "report.md").read_text() == text
    assert (results / "mobilenet.png").stat().st_size > 1000


def test_all_methods_of_a_seed_begin_with_the_same_weights() -> None:
    problem = problems.PROBLEMS["mobilenet"]
    first, again, other = (problem.start(seed).module.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
