"""Progress with time left for what takes seconds: a bar on a terminal, one line in a log, nothing where it is quick."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from idp_deploy.cli import patience
from idp_deploy.cli.patience import Waiting
from idp_deploy.flow import Model
from idp_deploy.hardening import recalibrate_batch_norm
from idp_deploy.inspection import inspect
from idp_deploy.loading import as_it_stands
from idp_deploy.quantization import quantize
from idp_deploy.tasks import evaluate
from idp_deploy.verification import verify
from idp_deploy.waiting import counted, listening
from tests.tiny_project.tiny import build, task


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes on by a second each time it is read."""
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(patience.time, "monotonic", tick)
    return now


def test_a_log_has_one_line_with_what_is_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Waiting():
        assert list(counted(range(8), "comparing outputs")) == list(range(8))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"comparing outputs: \d of 8, about [\d.]+ s left", lines[0])


def test_what_is_quick_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Waiting():
        list(counted(range(8), "comparing outputs"))
        list(counted(iter(range(8)), "without a length"))
    assert capsys.readouterr() == ("", "")


def test_steps_say_what_is_left_of_all(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Waiting(3) as waiting:
        for name in ("onnx", "coreml", "tflite"):
            waiting.step(f"exporting to {name}")
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "exporting to onnx"
    assert all(re.search(r", about [\d.]+ s left$", line) for line in others)


def test_a_terminal_has_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    monkeypatch.setattr(patience, "console", lambda: terminal)
    with Waiting():
        for _ in counted(range(3), "proving weights"):
            terminal.print("")
    assert "proving weights" in shown.getvalue()
    assert "\x1b[?25h" in shown.getvalue()  # the cursor is back
    assert max(len(line) for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.getvalue()).splitlines()) <= 80


def test_the_stages_that_take_seconds_are_heard(tmp_path: Path) -> None:
    from idp_deploy.exporting import export

    heard: dict[str, int] = {}
    data, model = task(), as_it_stands(Model(build()))
    artifact = export(model, "onnx", data.example_inputs(), tmp_path / "net.onnx")
    with listening(lambda what, done, total: heard.__setitem__(what, done)):
        evaluate(model.module, data)
        quantize(model, "int8", task=data)
        verify(artifact.path, model, data.example_inputs(), task=data)
        recalibrate_batch_norm(build(), data)
        inspect(artifact.path)
    assert {"accuracy", "quantizing weights", "watching activations", "comparing outputs"} <= heard.keys()
    assert {"measuring batch norms", "weighing tensors", "compressing net.onnx"} <= heard.keys()
    assert all(heard.values())


def test_nobody_hears_afterwards() -> None:
    heard: list[str] = []
    with listening(lambda what, done, total: heard.append(what)):
        pass
    assert list(counted([torch.zeros(1)], "x")) == [torch.zeros(1)]
    assert not heard
    assert sys.stderr is not None
