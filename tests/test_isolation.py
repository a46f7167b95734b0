"""Foreign code in a child: what it returns, raises, and takes down with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from idp_deploy import isolation
from idp_deploy.errors import ExitCode, FileError
from idp_deploy.isolation import ForeignError, Session, open_isolated
from idp_deploy.isolation.wire import pack, unpack

Arrays = Mapping[str, np.ndarray]
ROOT = Path(__file__).parents[1]


class Foreign:
    """What the child holds here: a library with manners that a real one only shows on damaged files."""

    def __init__(self, content: bytes, *, greedy: bool = False) -> None:
        if content == b"refuse":
            raise ValueError("not a file of mine")
        if greedy:
            self.kept = np.ones(8 << 30, np.uint8)
        self.content = content

    def double(self, arrays: Arrays) -> tuple[int, dict[str, np.ndarray]]:
        return len(self.content), {name: array * 2 for name, array in arrays.items()}

    def die(self, _: Arrays) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def leave(self, _: Arrays) -> None:
        os._exit(7)

    def sleep(self, _: Arrays) -> None:
        time.sleep(60)

    def pid(self, _: Arrays) -> tuple[int, dict[str, np.ndarray]]:
        return os.getpid(), {}

    def pickle(self, _: Arrays) -> tuple[object, dict[str, np.ndarray]]:
        return object(), {}


def session(content: bytes = b"abc", **words: bool) -> Session:
    return open_isolated(f"{__name__}:Foreign", runtime="Foreign", about="m.bin", content=content, **words)


def test_calls_pass_arrays_of_every_kind_both_ways() -> None:
    arrays = {"scalar": np.array(2.5), "empty": np.zeros((2, 0), np.int8), "turned": np.arange(6.0).reshape(2, 3).T}
    length, results = session().call("double", arrays)
    assert length == 3
    for name, array in arrays.items():
        np.testing.assert_array_equal(results[name], array * 2, strict=True)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (0, 2), ()])
def test_names_pass_both_ways(shape: tuple[int, ...]) -> None:
    names = np.array([b"cat", "日".encode(), b""][: int(np.prod(shape))], object)
    _, results = unpack(pack(0, {"names": names.reshape(shape), "more": np.full(shape, "ab"), "one": np.ones(2)}))
    assert results["names"].tolist() == names.reshape(shape).tolist()
    assert results["more"].tolist() == np.full(shape, b"ab").tolist()
    np.testing.assert_array_equal(results["one"], np.ones(2))


def test_an_exception_leaves_the_child_and_its_other_sessions_alive() -> None:
    other = session()
    with pytest.raises(ForeignError, match="not a file of mine") as caught:
        session(b"refuse")
    assert caught.value.kind == "ValueError"
    assert other.call("double")[0] == 3


def test_one_child_serves_all_sessions_and_starts_again_after_a_death() -> None:
    first, second = session(), session()
    pid = first.call("pid")[0]
    assert second.call("pid")[0] == pid != os.getpid()
    with pytest.raises(FileError, match=r"Foreign ended with signal SIGSEGV on m\.bin — .*export it again") as caught:
        first.call("die")
    assert caught.value.exit_code is ExitCode.FILE
    assert session().call("pid")[0] != pid
    with pytest.raises(FileError):
        second.call("pid")  # it went with the child


def test_an_exit_of_the_child_is_one_message() -> None:
    with pytest.raises(FileError, match=r"ended unexpectedly \(exit 7\)"):
        session().call("leave")


def test_too_long_a_call_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "SECONDS", 0.5)
    slow = session()
    slow.call("pid")
    start = time.monotonic()
    with pytest.raises(FileError, match="took longer than 1 s"):
        slow.call("sleep")
    assert time.monotonic() - start < 10


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux holds a limit on address space")
def test_memory_beyond_what_the_file_justifies_is_refused() -> None:
    with pytest.raises(ForeignError) as caught:
        session(greedy=True)
    assert "Memory" in caught.value.kind


def test_an_answer_that_is_no_json_is_an_error_not_a_pickle() -> None:
    with pytest.raises(ForeignError, match="JSON serializable"):
        session().call("pickle")


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", pack(1, {})[:-1], b"\xff" * 64], ids=range(4))
def test_other_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="no message"):
        unpack(data)


def test_no_child_outlives_its_command() -> None:
    code = (
        "from tests.test_isolation import session; import json, os, signal;"
        "print(json.dumps(session().call('pid')[0]), flush=True); os.kill(os.getpid(), signal.{})"
    )
    for end in ("SIGKILL", "SIGINT"):
        command, environment = [sys.executable, "-c", code.format(end)], {**os.environ, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        pid = json.loads(run.stdout)
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{pid}"), f"the child lives on after {end}"
