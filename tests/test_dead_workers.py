"""Workers of data loaders that end by themselves, and streams that end too early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from idp_deploy.cli.app import _run
from idp_deploy.errors import of_dead_worker

ROOT = Path(__file__).parents[1]


def test_a_worker_of_a_data_loader_that_dies_is_one_message(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from torch.utils.data import DataLoader
from idp_deploy.cli import main
class Dying(list):
    def __getitem__(self, _):
        os.kill(os.getpid(), signal.SIGKILL)
sys.modules["idp_deploy.cli.app"].app = lambda *_, **__: list(DataLoader(Dying([1]), num_workers=1))
main([])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("error: a worker of the task's data loader ended (DataLoader worker (pid")
    assert done.stderr.endswith("use fewer workers, then --resume\n")


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_a_worker_that_dies_while_it_hands_a_batch_over_is_the_same_message(error: Exception) -> None:
    """Whether PyTorch knows already that it died is a matter of moments."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    class Torn:
        def get(self, timeout: float) -> None:
            raise error

    loader: Any = object.__new__(_MultiProcessingDataLoaderIter)
    loader._data_queue, loader._workers, loader._workers_status = Torn(), [], []
    loader._persistent_workers, loader._shutdown = False, True
    with pytest.raises(type(error)) as caught:
        loader._try_get_data()
    dead = of_dead_worker(caught.value)
    assert dead is not None
    assert "a worker of the task's data loader ended" in str(dead)
    assert of_dead_worker(type(error)()) is None  # raised anywhere else


def test_a_worker_that_is_missed_while_the_error_is_told_changes_nothing(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from idp_deploy.cli import app, main
def missed(*_):
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
def ends(*_, **__):
    signal.signal(signal.SIGCHLD, missed)
    raise EOFError("the batch ends")
told = sys.modules["idp_deploy.cli.app"].on_a_line
def telling(text):
    os.kill(os.getpid(), signal.SIGCHLD)
    return told(text)
sys.modules["idp_deploy.cli.app"].app = ends
sys.modules["idp_deploy.cli.app"].on_a_line = telling
main([])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: unexpected EOFError: the batch ends")
    assert "Traceback" not in done.stderr


def test_the_end_of_a_file_is_not_called_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> None:
        raise EOFError(f"{name} ends too early")

    reading = typer.Typer()
    reading.command()(load)
    monkeypatch.setattr("idp_deploy.cli.app.app", reading)
    assert _run(["batches.pkl"], debug=False) == 3
    assert "unexpected EOFError: batches.pkl ends too early" in capsys.readouterr().err
