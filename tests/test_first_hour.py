"""docs/first-hour.md is what happens: its files are written, its commands typed, its answers compared.

`python -m tests.test_first_hour` writes the answers there.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.forked import command, script

PAGE = Path(__file__).parents[1] / "docs" / "first-hour.md"
_BLOCK = re.compile(r"```(python|console|toml)\n(.*?)```", re.S)


def replay(folder: Path, page: str) -> str:
    """The page with every answer as it is when typed in `folder`, no edit in between."""
    parts: list[str] = []
    end = 0
    for block in _BLOCK.finditer(page):
        kind, text = block.groups()
        if kind == "python" and not (folder / "net.py").exists():
            (folder / "net.py").write_text(text)
            script(text, folder)
        elif kind == "console":
            line = text.splitlines()[0]
            done = command(*shlex.split(line.removeprefix("$ idp-deploy ")), folder=folder)
            assert done.returncode == 0, done.stderr
            text = f"{line}\n{done.stdout}"
        elif kind == "toml":
            text = (folder / "idp-deploy.toml").read_text()
        parts += [page[end : block.start()], f"```{kind}\n{text}```"]
        end = block.end()
    return "".join([*parts, page[end:]]).replace(f"{folder.resolve()}/", "")


def measured(page: str) -> str:
    """Without what differs from one machine or release to the next: times, bytes, errors, the widths of columns."""
    page = re.sub(r"≈? ?\d+(\.\d+)?(e-\d+)? ?(min|h|s|kB|MB|ms|µs|B|%)?\b", "#", page)
    return re.sub(r"[ ─-]+", " ", page)


def test_the_first_hour_is_what_happens(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    pytest.importorskip("litert_torch")
    page = PAGE.read_text()
    assert len(re.findall(r"^\$ ", page, re.M)) <= 5
    assert measured(replay(tmp_path, page)) == measured(page), "run 'python -m tests.test_first_hour'"
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == [
        "w.pruned.mlpackage",
        "w.pruned.onnx",
        "w.pruned.pt",
        "w.pruned.tflite",
        "w.run.json",
    ]


@pytest.mark.slow
def test_a_new_project_runs(tmp_path: Path) -> None:
    def call(*command: str, folder: Path = tmp_path / "demo") -> str:
        line = [sys.executable, "-m", "idp_deploy", *command]
        return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout

    call("new", "demo", folder=tmp_path)
    report = json.loads(call("run", "--json"))
    assert report["facts"]["accuracy"]["hardened"] > 0.7
    assert [check["verdict"] for check in report["checks"]] == ["pass"] * 3
    call("check")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        PAGE.write_text(replay(Path(made), PAGE.read_text()))
