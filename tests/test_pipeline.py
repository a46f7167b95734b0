"""Composing the verbs: what happens to a file that does not agree with its model."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import idp_deploy.exporting
from idp_deploy import deploy, load_checkpoint, render
from idp_deploy.errors import UsageError
from idp_deploy.exporting import Conversion
from idp_deploy.files import move, replacing, write_bytes
from idp_deploy.flow import CompressedModel
from idp_deploy.shipping import export_and_verify
from tests.tiny_project.tiny import build

INPUTS = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)


def model() -> CompressedModel:
    torch.manual_seed(0)
    return CompressedModel(build().eval(), {})


def test_a_file_that_disagrees_is_set_aside_and_the_old_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,), _ = export_and_verify(model(), INPUTS, tmp_path, "net", ["onnx"])
    before = first.path.read_bytes()
    real = idp_deploy.exporting.convert

    def spoiled(given: CompressedModel, *args: Any, **options: Any) -> Conversion:
        module = deepcopy(given.module)
        with torch.no_grad():
            module.get_parameter("8.weight").mul_(1.01)
        return real(replace(given, module=module), *args, **options)

    monkeypatch.setattr(idp_deploy.exporting, "convert", spoiled)
    (second,), parities = export_and_verify(model(), INPUTS, tmp_path, "net", ["onnx"])
    assert not parities[second.path].passed
    assert second.path == tmp_path / "rejected" / "net.onnx"
    assert second.path.is_file()
    assert first.path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "rejected"]


def package(folder: Path, text: str) -> Path:
    manifest = {"itemInfoEntries": {"1": {"path": "com.apple.CoreML/model.mlmodel"}}, "rootModelIdentifier": "1"}
    (folder / "Data" / "com.apple.CoreML").mkdir(parents=True)
    (folder / "Data" / "com.apple.CoreML" / "model.mlmodel").write_text(text)
    (folder / "Manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_package_takes_the_place_of_a_package(tmp_path: Path) -> None:
    old, new = package(tmp_path / "old", "1"), package(tmp_path / "new", "2")
    move(new, old)
    assert (old / "Data" / "com.apple.CoreML" / "model.mlmodel").read_text() == "2"
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("extra", ["notes.txt", "Data/com.apple.CoreML/model.txt", "Data/mine/"])
def test_a_package_with_anything_else_in_it_stays(extra: str, tmp_path: Path) -> None:
    old, new = package(tmp_path / "old", "1"), package(tmp_path / "new", "2")
    (old / extra).mkdir() if extra.endswith("/") else (old / extra).write_text("mine")
    with pytest.raises(UsageError, match=f"old holds {extra.strip('/')}, which is no part of a Core ML package"):
        move(new, old)
    assert (old / extra).exists()
    assert (old / "Data" / "com.apple.CoreML" / "model.mlmodel").read_text() == "1"
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_a_folder_never_makes_way_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    with pytest.raises(UsageError, match="report is a directory"):
        write_bytes(tmp_path / "report", b"")

    def write_late() -> None:
        with replacing(tmp_path / "late") as temporary:
            temporary.write_bytes(b"new")
            (tmp_path / "late").mkdir()  # by somebody else, meanwhile

    with pytest.raises(OSError):
        write_late()
    assert sorted(os.listdir(tmp_path)) == ["late", "report"]


def test_a_run_says_what_is_left_of_a_model_without_channels(tmp_path: Path) -> None:
    said: list[str] = []
    done = deploy(
        build(), to="onnx", output=tmp_path, sparsity=0.5, pattern="channel", one_shot=True, inputs=INPUTS,
        announce=said.append,
    )  # fmt: skip
    left = sum(p.numel() for p in load_checkpoint(done.checkpoint, build).module.parameters())
    whole = sum(p.numel() for p in build().parameters())
    assert f"channels taken out: {left:,} of {whole:,} parameters are left" in said
    assert f"{left:,} of {whole:,} left: channels are taken out" in render(done.report, "text")
