"""What a command that is killed leaves behind: the old file or the new one, and nothing temporary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from idp_deploy.errors import UsageError
from idp_deploy.files import move, replacing, workspace, write_bytes
from idp_deploy.ownership import TRAINING_STATE
from idp_deploy.pruning.resuming import forget_state, save
from tests.test_pipeline import package

ROOT = Path(__file__).parents[1]
# it writes half a file and then waits to be killed, inside the command line's own handling of signals
WRITER = """
import sys, time
from pathlib import Path
from idp_deploy.cli import main
from idp_deploy.files import replacing
def wait(*_, **__):
    with replacing(Path("out.pt")) as temporary:
        temporary.write_bytes(b"half")
        Path("ready").touch()
        time.sleep(60)
sys.modules["idp_deploy.cli.app"].app = wait
main([])
"""


def killed(folder: Path, number: int) -> tuple[int, str]:
    """Exit status and stderr of a command that was sent the signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (folder / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_the_old_file_and_nothing_else(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "out.pt").write_bytes(b"old")
    status, said = killed(tmp_path, number)
    assert status == code
    assert "no file was changed half-way" in said
    assert (tmp_path / "out.pt").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["out.pt", "ready"]


def test_what_was_left_beside_a_folder_that_it_had_just_made_goes_too(tmp_path: Path) -> None:
    left = tmp_path / f".idp-deploy-{'0' * 32}"
    left.mkdir()
    place = tmp_path / "made" / "by" / "it.txt"
    place.parent.mkdir(parents=True)
    write_bytes(place, b"anew")
    assert not left.exists()


def test_what_a_killed_command_left_goes_with_the_next(tmp_path: Path) -> None:
    killed(tmp_path, signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 2
    write_bytes(tmp_path / "other", b"")
    assert sorted(os.listdir(tmp_path)) == ["other", "ready"]


def test_a_worker_that_outlives_its_command_keeps_no_temporary_folder(tmp_path: Path) -> None:
    code = f"""
import os, signal, time
from pathlib import Path
from idp_deploy.files import workspace
with workspace(Path({str(tmp_path)!r})):
    up, told = os.pipe()
    if (worker := os.fork()) == 0:
        os.write(told, b".")
        time.sleep(60)
    os.read(up, 1)
    print(worker, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as killed:
        assert killed.stdout
        worker = int(killed.stdout.readline())
        try:
            assert killed.wait(60) == -signal.SIGKILL
            assert len(os.listdir(tmp_path)) == 1
            with workspace(tmp_path) as holder:
                assert os.listdir(tmp_path) == [holder.name]
        finally:
            os.kill(worker, signal.SIGKILL)


def test_the_temporary_folder_of_a_living_command_and_folders_of_the_user_stay(tmp_path: Path) -> None:
    for name in (".idp-deploy", ".idp-deploy-notes", ".idp-deploy-my_notes"):
        (tmp_path / name).mkdir()
    with workspace(tmp_path) as one:
        (one / "file").write_text("1")
        write_bytes(tmp_path / "other", b"")
        with workspace(tmp_path) as another:
            assert {one.name, another.name} <= set(os.listdir(tmp_path))
        assert (one / "file").exists()
    assert sorted(os.listdir(tmp_path)) == [".idp-deploy", ".idp-deploy-my_notes", ".idp-deploy-notes", "other"]


def test_a_package_moved_out_of_the_way_when_the_command_was_killed_comes_back(tmp_path: Path) -> None:
    retired = tmp_path / f".idp-deploy-{0:032x}" / "retired"
    retired.mkdir(parents=True)
    package(retired / "net.mlpackage", "old")
    write_bytes(tmp_path / "other", b"")
    assert sorted(os.listdir(tmp_path)) == ["net.mlpackage", "other"]
    assert (tmp_path / "net.mlpackage" / "Manifest.json").exists()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    import resource

    write_bytes(tmp_path / "file", b"old")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError), replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"x" * (1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("after", [1, 2])
def test_an_interruption_right_after_a_rename_of_a_swap_loses_no_package(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old package, or the new one, whole; a signal comes between any two lines."""
    monkeypatch.setattr("ctypes.CDLL", lambda _: None)  # a system without a swap in one step
    place, made = package(tmp_path / "m.mlpackage", "old"), package(tmp_path / "made", "new")
    real, count = Path.rename, iter(range(1, 99))

    def interrupted(self: Path, target: Path) -> Path:
        moved = real(self, target)
        if next(count) == after:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        move(made, place)
    assert (place / "Data/com.apple.CoreML/model.mlmodel").read_text() == ("old" if after == 1 else "new")
    assert not list(tmp_path.glob(".idp-deploy-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a call of Linux")
def test_packages_are_swapped_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, made = package(tmp_path / "m.mlpackage", "old"), package(tmp_path / "made", "new")
    moved: list[Path] = []
    monkeypatch.setattr(Path, "rename", lambda self, _: moved.append(self))
    move(made, place)
    assert (place / "Data/com.apple.CoreML/model.mlmodel").read_text() == "new"
    assert not moved
    assert os.listdir(tmp_path) == ["m.mlpackage"]


@pytest.mark.parametrize("system", ["with a swap", "without"])
def test_a_package_that_somebody_writes_into_meanwhile_stays(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "without":
        monkeypatch.setattr("ctypes.CDLL", lambda _: None)
    place = package(tmp_path / "m.mlpackage", "old")

    def write_while_another_writes() -> None:
        with replacing(place, package=True) as temporary:
            package(temporary, "new")
            (place / "mine.txt").write_text("mine")

    with pytest.raises(UsageError, match=r"holds mine\.txt"):
        write_while_another_writes()
    assert (place / "mine.txt").read_text() == "mine"
    assert (place / "Data/com.apple.CoreML/model.mlmodel").read_text() == "old"
    assert os.listdir(tmp_path) == ["m.mlpackage"]


def test_a_signal_while_the_temporary_folder_is_removed_leaves_none(tmp_path: Path) -> None:
    """The first of all moments: at the end of a command, when nothing seems left to interrupt."""
    script = """
import shutil
from pathlib import Path
from idp_deploy.files import write_bytes
real = shutil.rmtree
def interrupted(*_, **__):
    shutil.rmtree = real
    raise KeyboardInterrupt
shutil.rmtree = interrupted
write_bytes(Path("file"), b"new")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert b"KeyboardInterrupt" in done.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_made_for_a_file_that_was_never_finished_goes(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for folder in ("mine", "new/inner"):
        with pytest.raises(OSError), replacing(tmp_path / folder / "file"):
            raise OSError
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["mine"]


def test_a_full_disk_is_told_as_such_when_training_states_are_saved(tmp_path: Path) -> None:
    """PyTorch's archive writer hides what the system said."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save({"weight": torch.zeros(1 << 17)}, tmp_path / "state.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("place", ["new/inner/file", "here/../new/file", "new/../file"])
def test_folders_that_are_missing_appear_with_the_file_in_them(tmp_path: Path, place: str) -> None:
    (tmp_path / "here").mkdir()
    with replacing(tmp_path / place) as temporary:
        temporary.write_text("whole")
        assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".idp-deploy-")] == ["here"]
    assert Path(os.path.normpath(tmp_path / place)).read_text() == "whole"
    assert not list(tmp_path.rglob(".idp-deploy-*"))


def test_a_folder_that_somebody_makes_meanwhile_is_used(tmp_path: Path) -> None:
    with replacing(tmp_path / "new" / "file") as temporary:
        temporary.write_text("whole")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "notes.txt").write_text("mine")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "new",
        "new/file",
        "new/notes.txt",
    ]


def test_the_folder_of_a_state_goes_in_one_step_and_one_of_the_user_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ours", "mine", "kept"):
        save({"kind": TRAINING_STATE}, tmp_path / name / "training_state.pt")
    (tmp_path / "ours" / f".idp-deploy-{0:032x}").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    removed: list[str] = []
    monkeypatch.setattr(Path, "rmdir", lambda path: removed.append(path.name))  # after a step of its own
    forget_state(tmp_path / "ours")
    forget_state(tmp_path / "mine")
    forget_state(tmp_path / "kept", keep_folder=True)
    forget_state(tmp_path / "never")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["kept", "mine", "mine/notes.txt"]
    assert not removed


@pytest.mark.wide
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_go_nowhere(closed: str) -> None:
    command = f"{sys.executable} -m idp_deploy targets --json {closed}"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert not done.stderr


@pytest.mark.wide
@pytest.mark.parametrize(("command", "code"), [("check m.onnx", 1), ("inspect m.onnx --format html", 0)])
@pytest.mark.parametrize("reader", ["cat", "true"])
def test_a_command_ends_as_it_would_for_who_does_not_read_its_report(
    command: str, code: int, reader: str, tmp_path: Path
) -> None:
    onnx.save(onnx.helper.make_model(product()), tmp_path / "m.onnx")
    (tmp_path / "idp-deploy.toml").write_text('[budgets.pixel-4.onnx]\nsize = "1 kB"\n')
    line = f"{sys.executable} -m idp_deploy {command} | {reader} > shown; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


def product() -> onnx.GraphProto:
    """x · w of 64 × 64."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    return onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
