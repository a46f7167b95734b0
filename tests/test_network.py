"""Nothing leaves the machine, and nothing is written outside the working folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny_project.tiny import build

TINY = Path(__file__).parent / "tiny_project" / "tiny.py"
CONFIGURATION = """
model = "tiny:build"
task = "tiny:task"
weights = "model.pt"
output = "out"
targets = ["pixel-4"]
prune = { target = 0.5, epochs = 1 }
export = { to = ["onnx"] }
"""
# imported by every child Python before anything else: a connection to anywhere but a socket file is written down
WATCH = """
import os, socket
_real = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX:
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{address}\\n")
    return _real(self, address)
socket.socket.connect = connect
"""


def test_a_run_in_an_empty_home_reaches_no_network_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home, work, watch = tmp_path / "home", tmp_path / "work", tmp_path / "watch"
    for folder in (home, work, watch):
        folder.mkdir()
    shutil.copy(TINY, work / "tiny.py")
    (work / "idp-deploy.toml").write_text(CONFIGURATION)
    (watch / "sitecustomize.py").write_text(WATCH)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(map(str, (watch, work, Path(__file__).parents[1]))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WATCHED": str(tmp_path / "connections"),
        "TMPDIR": str(tmp_path),
    }
    torch.save(build().state_dict(), work / "model.pt")
    command = [*namespace(), sys.executable, "-m", "idp_deploy", "run"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert not (tmp_path / "connections").exists()
    assert {p.name for p in work.iterdir()} == {".idp-deploy", "idp-deploy.toml", "model.pt", "out", "tiny.py"}
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith("torchinductor_")}  # PyTorch's own cache
    assert left == {"home", "watch", "work"}


def namespace() -> list[str]:
    """A network of its own without any interface, where the system lets us have one."""
    unshare = ["unshare", "-rn", "--"]
    if shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
        return unshare
    return []


@pytest.mark.wide
@pytest.mark.parametrize("module", ["idp_deploy", "idp_deploy.isolation.child", "idp_deploy.pruning.callbacks"])
def test_telemetry_is_off_before_a_library_could_ask(module: str) -> None:
    names = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
    code = f"import os, {module}; print(*(os.environ.get(n) for n in {names!r}))"
    bare = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    for setting, said in (({}, "1 1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0 1")):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**bare, **setting}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == said.split()
