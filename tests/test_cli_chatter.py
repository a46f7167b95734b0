"""What the code of a model or a task prints is no result, and where it leaves that is no verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.errors import ExitCode
from tests.cli_project import call

CHATTERING = """
import os, subprocess, sys
from torch import nn
print("imported")
class Net(nn.Linear):
    def forward(self, x):
        print("called")
        return super().forward(x)
def build():
    print("built")
    os.system("echo by a shell")
    os.write(1, b"by the system\\n")
    return Net(4, 3)
"""
LEAVING = """
import sys
from idp_deploy import Task
from torch import nn
def build(): return nn.Linear(4, 3)
class Leaves(Task):
    def train_loader(self, seed): sys.exit({})
    def validation_loader(self): sys.exit({})
"""
WAYS = ["-m", "idp_deploy", "prune", "m.pt", "--model", "chattering:build", "--target", "0.5", "--one-shot"]


def saved(folder: Path) -> None:
    torch.save(nn.Linear(4, 3).state_dict(), folder / "m.pt")


def test_stdout_is_the_result_whatever_the_model_prints(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "chattering.py").write_text(CHATTERING)
    done = subprocess.run([sys.executable, *WAYS, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["zeros"] == 6
    for printed in ("imported", "built", "by a shell", "by the system"):
        assert printed in done.stderr


@pytest.mark.parametrize("done_to_it", ["sys.stdout.close()", "sys.stdout = io.StringIO()", "os.close(1)"])
def test_what_the_model_does_to_its_stdout_leaves_ours(done_to_it: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "chattering.py").write_text(
        f"import io, os, sys\nfrom torch import nn\ndef build():\n    {done_to_it}\n    return nn.Linear(4, 3)\n"
    )
    done = subprocess.run([sys.executable, *WAYS, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["zeros"] == 6
    assert "pruning by magnitude alone" in done.stderr


@pytest.mark.parametrize("code", ["", "0", "1", "'no data'"])
def test_code_that_leaves_is_no_verdict(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path)
    name = f"leaving_{len(code)}"
    (tmp_path / f"{name}.py").write_text(LEAVING.format(code, code))
    monkeypatch.chdir(tmp_path)
    left = call("prune", "m.pt", "--model", f"{name}:build", "--task", f"{name}:Leaves", "--target", "0.5")
    assert left == ExitCode.USAGE
    assert "the code of the model or the task ended the program (SystemExit: " in capsys.readouterr().err
