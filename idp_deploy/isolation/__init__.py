"""Foreign code in a process of its own: what a damaged file does to a runtime must not end or fill this process.

Runtimes parse files in C++ and end on a signal, or ask for memory without bound, where a file is damaged in a way
that their own checks miss. So a file meets them in a child (`isolation.child`) with limits on memory and time, and a
death there is one message here. One child serves a whole command: it starts with the first file and holds any number
of loaded ones.

    session = open_isolated("package.module:Class", runtime="LiteRT", about="model.tflite", content=data)
    outputs = session.call("run", arrays)
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from idp_deploy.errors import FileError
from idp_deploy.isolation.wire import Message, pack, unpack

SECONDS = 120.0  # a call; a phone's model answers in milliseconds, this leaves room for a slow machine
SECONDS_PER_MEGABYTE = 1.0  # more for large files
_START_SECONDS = 120.0  # importing a runtime on a cold disk


class ForeignError(Exception):
    """An exception that the foreign code raised, by its type and text; the session and its child live on."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Session:
    """An object that lives in the child; `call` runs one of its methods."""

    def __init__(self, child: _Child, number: int, runtime: str, about: str, seconds: float) -> None:
        self._child, self._number, self._seconds = child, number, seconds
        self.runtime, self.about = runtime, about

    def call(self, method: str, arrays: Mapping[str, np.ndarray] | None = None, **words: Any) -> Message:
        """Run a method of the object.

        Args:
            arrays: passed by name as its first argument; `words` as keyword arguments (plain JSON values).

        Returns:
            What it returned: (a JSON value, arrays by name).

        Raises:
            ForeignError: it raised. FileError: it ended the child, or took longer than the limit.
        """
        request = {"do": "call", "number": self._number, "method": method, "words": words}
        return self._child.ask(request, arrays or {}, self.runtime, self.about, self._seconds)

    def close(self) -> None:
        """Let the child forget the object."""
        self._child.forget(self._number)

    def __del__(self) -> None:
        self.close()


def open_isolated(location: str, *, runtime: str, about: str, content: bytes | np.ndarray, **words: Any) -> Session:
    """Make an object of the class at `location` ("module:Class") in the child, from a file's content and `words`.

    Args:
        runtime: what messages call the foreign code. about: what they call the file.

    Raises:
        ForeignError: the class refused the content. FileError: it ended the child, or took longer than the limit.
    """
    data = np.frombuffer(content, np.uint8)
    seconds = SECONDS + SECONDS_PER_MEGABYTE * data.size / 1e6
    child = _the_child()
    answer, _ = child.ask({"do": "open", "at": location, "words": words}, {"": data}, runtime, about, seconds)
    return Session(child, answer, runtime, about, seconds)


class _Child:
    """One child process and the pipe to it."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        self._pipe: Connection = ours
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "idp_deploy.isolation.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self._forgotten: list[int] = []
        self._started = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, request: dict[str, Any], arrays: Mapping[str, np.ndarray], runtime: str, about: str, seconds: float
    ) -> Message:
        """Send one request and wait for its answer."""
        forgotten, self._forgotten = self._forgotten, []
        limit = seconds if self._started else seconds + _START_SECONDS
        try:
            self._pipe.send_bytes(pack({**request, "forget": forgotten}, arrays))
            if not self._pipe.poll(limit):
                self.end()
                raise FileError(
                    f"{runtime} took longer than {limit:.0f} s on {about} and was stopped",
                    way_out="the file may be damaged; export it again",
                )
            answer, results = unpack(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._death(runtime, about) from error
        except BaseException:  # Ctrl-C between question and answer: the pipe would hold an answer nobody asked for
            self.end()
            raise
        self._started = True
        if "error" in answer:
            raise ForeignError(answer["error"], answer["text"])
        return answer["value"], results

    def forget(self, number: int) -> None:
        self._forgotten.append(number)

    def end(self) -> None:
        """Stop the process at once; it holds nothing worth keeping."""
        with suppress(OSError):
            self._pipe.close()
        self._process.kill()
        self._process.wait()

    def _death(self, runtime: str, about: str) -> FileError:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = 0
        self.end()
        how = f"with signal {signal.Signals(-status).name}" if status < 0 else f"unexpectedly (exit {status})"
        return FileError(
            f"{runtime} ended {how} on {about}",
            way_out="the file is damaged or needs more memory than its size justifies; export it again",
        )


_children: list[_Child] = []


def _the_child() -> _Child:
    """The living child of this process; a new one where there is none, or in a process forked since."""
    if not _children or not _children[0].alive:
        _children[:] = [_Child()]
    return _children[0]


def _end_all() -> None:
    for child in _children:
        child.end()
    _children.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_children.clear)  # a fork must not talk through its parent's pipe
