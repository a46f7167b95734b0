"""Composing the verbs: what happens to a file that does not agree with its model."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import idp_deploy.exporting
from idp_deploy.files import move
from idp_deploy.flow import Artifact, CompressedModel
from idp_deploy.pipeline import export_and_verify
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
    real = idp_deploy.exporting.export

    def spoiled(given: CompressedModel, *args: Any, **options: Any) -> Artifact:
        module = deepcopy(given.module)
        with torch.no_grad():
            module.get_parameter("8.weight").mul_(1.01)
        return real(replace(given, module=module), *args, **options)

    monkeypatch.setattr(idp_deploy.exporting, "export", spoiled)
    (second,), parities = export_and_verify(model(), INPUTS, tmp_path, "net", ["onnx"])
    assert not parities[second.path].passed
    assert second.path == tmp_path / "rejected" / "net.onnx"
    assert second.path.is_file()
    assert first.path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "rejected"]


def test_a_directory_takes_the_place_of_a_directory(tmp_path: Path) -> None:
    for name, text in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    move(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "2"
    assert os.listdir(tmp_path) == ["old"]
