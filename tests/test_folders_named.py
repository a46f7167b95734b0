"""Commands that are given a folder where files are meant: all in it, the one in it, or words that name them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.cli.app import _run


def linear(path: Path, zeros: float = 0.9) -> Path:
    """A small .onnx file: one layer, most of it zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = np.where(np.arange(64 * 32).reshape(64, 32) % 10 < 10 * zeros, 0.0, 0.5).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in (("x", 64), ("y", 32))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def package(path: Path) -> Path:
    """What a Core ML package looks like from outside."""
    (path / "Data" / "com.apple.CoreML").mkdir(parents=True)
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b"model")
    items = {"one": {"path": "com.apple.CoreML/model.mlmodel", "name": "model.mlmodel"}}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "one"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def call(*arguments: str) -> int:
    return _run(list(arguments), debug=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "several" / "b.onnx")
    shutil.copy(tmp_path / "several" / "b.onnx", tmp_path / "several" / "a.onnx")
    for name in ("c.onnx", "d.onnx"):
        linear(tmp_path / "two" / name)
    linear(tmp_path / "one" / "m.ONNX")
    (tmp_path / "one" / "README.md").write_text("mine")
    linear(tmp_path / "deeper" / "onnx" / "m.onnx")
    linear(tmp_path / "exports.onnx" / "m.onnx")  # a folder whatever its name says
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.pt").write_bytes(b"weights")
    package(tmp_path / "unnamed")
    package(tmp_path / "net.mlpackage")
    return tmp_path


@pytest.mark.parametrize("command", ["check", "simulate"])
def test_all_models_in_a_folder_are_taken_by_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "several", "several/b.onnx", "one", "exports.onnx", "--target", "pixel-4", "--json") == 0
    said = capsys.readouterr()
    paths = [estimate["artifact"] for estimate in json.loads(said.out)["estimates"]]
    assert paths == ["several/a.onnx", "several/b.onnx", "one/m.ONNX", "exports.onnx/m.onnx"]
    assert "of several: a.onnx, b.onnx" in said.err


@pytest.mark.parametrize("line", ["inspect one", "diff one exports.onnx", "verify one", "restore one"])
def test_the_one_model_of_a_folder_is_meant(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*line.split()) == 0
    assert "of one: m.ONNX" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("inspect several", "several is a folder with a.onnx, b.onnx — name one of them"),
        ("diff one/m.ONNX several", "several is a folder with a.onnx, b.onnx — name one of them"),
        ("diff several two", "no file of several (a.onnx, b.onnx) is one of two (c.onnx, d.onnx) — name two files"),
        ("verify several", "several is a folder with a.onnx, b.onnx — name one of them"),
        ("restore several", "several is a folder with a.onnx, b.onnx — name one of them"),
        ("inspect deeper", "deeper is a folder with onnx/m.onnx — name one of them"),
        ("check deeper --target pixel-4", "deeper is a folder with onnx/m.onnx — name one of them"),
        ("check weights --target pixel-4", "in it; 'idp-deploy export weights --to onnx' makes one of weights"),
        ("simulate weights --target pixel-4", "weights is a folder without a model file — expected one of .onnx, "),
        ("inspect unnamed", "unnamed is a Core ML package by its content — give it the suffix .mlpackage"),
    ],
)
def test_a_folder_that_is_no_one_file_names_what_lies_in_it(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*line.split()) == 3
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check one", "simulate one", "diff one one", "check one --budgets limits.toml"])
def test_an_unknown_device_is_said_with_its_line(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'targets = ["pixel-4", "pixl-4"]\n'
    line = "idp-deploy.toml:1"
    if command.startswith("check"):
        text, line = '[budgets.pixl-4.onnx]\nsize = "1 MB"\n', "idp-deploy.toml:1"
    if "limits.toml" in command:
        (folder / "limits.toml").write_text(f"output = 'build'\n{text}")
        line, text = "limits.toml:2", ""
    (folder / "idp-deploy.toml").write_text(text)
    assert call(*command.split()) == 2
    said = capsys.readouterr().err
    assert f"{line}: unknown target 'pixl-4'" in said
    assert "nearest: pixel-4" in said


def test_folders_are_held_against_each_other_file_by_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear(folder / "later" / "a.onnx", zeros=0.5)
    linear(folder / "later" / "c.onnx")
    assert call("diff", "several", "later", "--target", "pixel-4") == 0
    said = capsys.readouterr().out
    assert re.search(r"^a\.onnx +8\.28 kB +\+0\.0 % +90.\d → 50.\d % +1 of 1$", said, re.MULTILINE), said
    assert "a.onnx: layers that changed: 1 of 1" in said
    assert "±100 %" in said
    assert "several/b.onnx: only in several" in said
    assert "later/c.onnx: only in later" in said
    assert call("diff", "several", "later", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [[layer["kind"] for layer in pair["layers"]] for pair in found["pairs"]] == [["weights"]]
    assert (found["removed"], found["added"]) == (["several/b.onnx"], ["later/c.onnx"])
    assert call("diff", "several", "several") == 0
    assert "every layer of every file is the same in both" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("check one --target pixel-4", "one/m.ONNX"),
        ("inspect several/a.onnx", "several/b.onnx"),
        ("targets", "weights/w.pt"),
        ("inspect one", "net.mlpackage/Manifest.json"),
        ("inspect one", "net.mlpackage/Data/com.apple.CoreML/report.txt"),
    ],
)
def test_no_report_takes_the_place_of_a_model_or_goes_into_a_package(
    line: str, place: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert call(*line.split(), "-o", place) == 2
    assert f"-o {place} " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
