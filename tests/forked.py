"""Commands in processes of their own that begin with everything imported: forks of one server for each worker."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.chaos.process import Server


def command(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """How `idp-deploy WORDS` ended in `folder`. Tests of what a command imports, and when, start a process instead."""
    ended = _server().run(list(words), folder, learns=True, environment=environment)
    return subprocess.CompletedProcess(words, ended.status, ended.stdout, ended.stderr)


@cache
def _server() -> Server:
    room = Path(tempfile.mkdtemp(prefix="forked-"))
    server = Server(room / "server", ["idp_deploy.cli"])
    atexit.register(shutil.rmtree, room, ignore_errors=True)
    atexit.register(server.end)
    return server
