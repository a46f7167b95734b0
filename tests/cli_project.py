"""A user's folder for the command line: code, weights and a configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from idp_deploy.cli.app import _run

PROJECT = Path(__file__).parent / "tiny_project" / "tiny.py"
CONFIGURATION = """
model = "tiny:build"
task = "tiny:task"
weights = "model.pt"
output = "out"
targets = ["pixel-4"]

[prune]
target = 0.5
epochs = 2

[export]
to = ["onnx"]

[budgets.pixel-4.onnx]
size = "100 kB"
latency = "1 s"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a user's code, a trained-enough state dict and a configuration."""
    shutil.copy(PROJECT, tmp_path / "tiny.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(tiny.build().state_dict(), "model.pt")
    (tmp_path / "idp-deploy.toml").write_text(CONFIGURATION)
    return tmp_path


def call(*arguments: str) -> int:
    return _run(list(arguments), debug=False)
