"""Commands in processes of their own that begin with everything imported: forks of one server for each worker."""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from socketserver import StreamRequestHandler, UnixStreamServer

from tests.chaos.commands import EVERYTHING
from tests.chaos.process import Server


def command(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """How `idp-deploy WORDS` ended in `folder`. Tests of what a command imports, and when, start a process instead."""
    ended = _server().run(list(words), folder, learns=True, environment=environment)
    return subprocess.CompletedProcess(words, ended.status, ended.stdout, ended.stderr)


def script(code: str, folder: Path) -> None:
    """Run what a user would as `python -c CODE` in `folder`."""
    done = command("-c", code, folder=folder)
    assert done.returncode == 0, done.stderr


_PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
asked.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
status, out, err = json.loads(asked.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""


@contextmanager
def program(path: Path) -> Iterator[None]:
    """`idp-deploy` at `path` for shell scripts, each call a `command` where and with what the script has it."""

    class Asked(StreamRequestHandler):
        def handle(self) -> None:
            words, folder, environment = json.loads(self.rfile.readline())
            ended = command(*words, folder=Path(folder), **environment)
            self.wfile.write(json.dumps([ended.returncode, ended.stdout, ended.stderr]).encode())

    room = tempfile.mkdtemp(prefix="asked-")  # an address of a socket has 107 characters
    try:
        with UnixStreamServer(f"{room}/socket", Asked) as asked:
            threading.Thread(target=asked.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            path.write_text(_PROGRAM.format(python=sys.executable, address=asked.server_address))
            path.chmod(0o755)
            yield
            asked.shutdown()
    finally:
        shutil.rmtree(room)


@cache
def _server() -> Server:
    room = Path(tempfile.mkdtemp(prefix="forked-"))
    server = Server(room / "server", EVERYTHING)
    atexit.register(shutil.rmtree, room, ignore_errors=True)
    atexit.register(server.end)
    return server
