"""Run a command in a process of its own and do something to it meanwhile."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS = 600.0  # a command, on a machine that does other work as well; more is a hang
_START_SECONDS = 600.0  # importing everything, on a busy machine
_MOMENT = 0.02  # between two looks at a running command


@dataclass(frozen=True)
class Ended:
    """How a command ended. `left` are processes of its group that outlived it by more than a moment."""

    status: int
    seconds: float
    stdout: str
    stderr: str
    steps: int
    left: bool


class Server:
    """Commands as forks of one process that has imported everything (`tests.chaos.server`), one at a time."""

    def __init__(self, folder: Path, modules: Iterable[str]) -> None:
        folder.mkdir()
        (folder / "stderr").touch()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.server", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        )
        self._answer(_START_SECONDS)

    def run(
        self,
        arguments: list[str],
        folder: Path,
        *,
        step: int | None = None,
        signal: int = 0,
        learns: bool = False,
        environment: Mapping[str, str] | None = None,
        meanwhile: Callable[[int, float], bool] = lambda process, seconds: True,
    ) -> Ended:
        """Run a command in `folder`.

        Args:
            step: the signal is sent before the step of this number; 0 only counts them.
            learns: what this command imports, the next ones have from the start.
            environment: variables beside those of the server.
            meanwhile: called with process id and seconds since the start, every moment until it returns True.
        """
        report, stdout, stderr = (self._folder / name for name in ("steps", "stdout", "stderr"))
        report.unlink(missing_ok=True)
        request: dict[str, Any] = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": {"TMPDIR": str(self.temporary), **(environment or {})},
            "stdout": str(stdout),
            "stderr": str(stderr),
            "step": step,
            "signal": signal,
            "loaded": str(self._folder / "loaded") if learns else "",
            "steps": str(report),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        process = self._answer(_SECONDS)
        start, status, done = time.monotonic(), None, False
        while status is None:
            done = done or meanwhile(process, time.monotonic() - start)
            status = self._answer(_SECONDS if done else _MOMENT, patient=not done)
        return Ended(
            status,
            time.monotonic() - start,
            stdout.read_text(),
            stderr.read_text(),
            int(report.read_text()) if report.exists() else 0,
            _outlives(process),
        )

    def end(self) -> None:
        """Let the server end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, seconds: float, patient: bool = False) -> Any:
        """The next line; None where none comes in that time, an error where it should have come."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            if not patient:
                self._process.kill()
                raise TimeoutError(f"no end after {seconds:.0f} s: {(self._folder / 'stderr').read_text()}")
            return None
        return json.loads(self._process.stdout.readline())


def members(process: int) -> list[tuple[int, str]]:
    """(process id, command line) of what lives in the session that a process leads, but for itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != process:
            with suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(state[3]) == process and state[0] != "Z":
                    found.append((int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")))
    return found


def _outlives(process: int) -> bool:
    deadline = time.monotonic() + 10
    while members(process):
        if time.monotonic() > deadline:
            return True
        time.sleep(_MOMENT)
    return False


def room() -> Path:
    """A new folder."""
    return Path(tempfile.mkdtemp(prefix="chaos-"))
