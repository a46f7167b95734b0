"""Where a command finds itself: terminals that lack letters, folders that are gone, disks that are full."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from idp_deploy.cli.app import _run, main
from idp_deploy.cli.streams import escape_unprintable
from idp_deploy.configuration import load
from idp_deploy.documents import read_bytes
from idp_deploy.errors import ExitCode, UsageError, of_system
from idp_deploy.files import replacing, workspace, write_bytes
from idp_deploy.flow import CompressedModel
from idp_deploy.ownership import destination
from idp_deploy.shipping import claim_artifacts, export_and_verify
from tests.pruning_fixtures import network


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_the_terminal_lacks_is_spelled_or_shown_as_its_escape(
    errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors=errors))
    escape_unprintable()
    sys.stdout.write("3×3, 5 µs ±2 % → ≤ 6 …, é\udcff")
    sys.stdout.flush()
    assert written.getvalue() == rb"3x3, 5 us +-2 % -> <= 6 ..., \xe9\udcff"


def test_a_working_folder_that_is_gone_is_called_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, gone = Path.cwd(), tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert _run(["run"], debug=False) == 3
    finally:
        os.chdir(before)
    assert capsys.readouterr().err.strip().startswith("error: the folder that this command runs in was removed")


def test_a_configuration_may_begin_with_the_mark_of_an_editor(tmp_path: Path) -> None:
    (tmp_path / "idp-deploy.toml").write_bytes(b'\xef\xbb\xbfoutput = "there"\n')
    assert load(tmp_path / "idp-deploy.toml").output.name == "there"


def test_a_write_that_fails_names_the_file_and_not_the_place_it_is_made_in(tmp_path: Path) -> None:
    raises = pytest.raises(OSError, match="No space")
    with raises as caught, workspace(tmp_path) as stage, replacing(stage / "model.onnx"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(of_system(caught.value)).startswith(f"{tmp_path}/model.onnx: No space left on device — ")
    write_bytes(tmp_path / "a", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_export_that_fails_leaves_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("idp_deploy.exporting.convert", full)
    with pytest.raises(OSError, match="No space"):
        export_and_verify(CompressedModel(network(), {}), (torch.zeros(1, 20),), tmp_path / "out", "model", ["onnx"])
    assert not list(tmp_path.iterdir())


def test_a_folder_named_as_a_file_is_refused_before_it_is_made_but_for_the_one_file(tmp_path: Path) -> None:
    assert destination(tmp_path / "app.onnx", "net", ["onnx"]) == (tmp_path, "app")
    assert destination(tmp_path / "app.onnx", "net", ["tflite"]) == (tmp_path / "app.onnx", "net")
    with pytest.raises(UsageError, match=r"named as one file, and 2 go into a folder, named by the model \('net'\)"):
        claim_artifacts(tmp_path / "model.onnx", "net", ["onnx", "tflite"])
    for name, format, wanted in (("net.ONNX", "onnx", "net.onnx"), ("net.tflite", "coreml", "net.mlpackage")):
        with pytest.raises(UsageError, match=rf"{name} is named as a file, and .*name it '.*/{wanted}', or a folder"):
            claim_artifacts(tmp_path / name, "net", [format])
    (tmp_path / "nets.onnx").mkdir()  # there already: somebody calls folders so
    assert destination(tmp_path / "nets.onnx", "net", ["onnx"]) == (tmp_path / "nets.onnx", "net")
    assert claim_artifacts(tmp_path / "nets.onnx", "net", ["onnx"]) == [tmp_path / "nets.onnx" / "net.onnx"]
    assert claim_artifacts(tmp_path / "v1.2", "net", ["onnx"]) == [tmp_path / "v1.2" / "net.onnx"]


def test_a_file_that_does_not_fit_into_memory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    try:
        os.truncate(path, 1 << 43)
    except OSError:
        pytest.skip("this file system holds no file of 8 TB, even an empty one")
    with pytest.raises(OSError, match="its 8,388,608 MB do not fit into memory") as caught:
        read_bytes(path)
    assert caught.value.filename == str(path)


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from idp_deploy.cli.app import main; main(sys.argv[1:])"


def without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_commands_that_read_files_need_no_torch(tmp_path: Path) -> None:
    values = np.zeros((96, 64), np.float32)
    values[::8] = 1
    node, tensor = helper.make_node("MatMul", ["x", "w"], ["y"]), numpy_helper.from_array(values, "w")
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, k]) for n, k in (("x", 96), ("y", 64)))
    graph, opset = helper.make_graph([node], "g", [x], [y], [tensor]), helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    for arguments in (
        ["--version"],
        ["init"],
        ["check", "m.onnx"],
        ["targets"],
        ["inspect", "m.onnx"],
        ["simulate", "m.onnx", "--target", "pixel-4"],
        ["restore", "m.onnx"],
        ["diff", "m.onnx", "m.sparse.onnx"],
    ):
        done = without_torch(tmp_path, *arguments)
        assert (done.returncode, done.stderr.count("error")) == (0, 0), (arguments, done.stderr)


def test_commands_that_need_torch_say_so(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    for arguments in (["new", "project"], ["init"], ["prune", "w.pt"], ["schema"], ["harden", "w.pt"]):
        done = without_torch(tmp_path, *arguments)
        assert done.returncode == ExitCode.DEPENDENCY, (arguments, done.stderr)
        assert done.stderr.endswith("needs the package 'torch', which is not installed — pip install torch\n")


def test_no_command_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert "Commands:" in said.out
    assert not said.err


def test_a_new_target_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["targets", "new", "my-board", "--like", "pixel-4"], debug=False) == ExitCode.OK
    assert "wrote targets/my-board.toml" in capsys.readouterr().err
    assert (tmp_path / "targets/my-board.toml").is_file()
