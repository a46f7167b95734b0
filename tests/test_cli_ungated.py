"""`check` where budgets are configured, and none of them is for the files it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from tests.cli_project import call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    export(CompressedModel(nn.Linear(8, 4).eval(), {}), "onnx", (torch.randn(1, 8),), tmp_path / "m.onnx")
    return tmp_path


def test_budgets_of_another_format_or_target_gate_nothing_and_fail(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tight.toml").write_text('[budgets.pixel-4.onnx]\nsize = "1 B"\n')
    (folder / "other.toml").write_text('[budgets.pixel-4.tflite]\nsize = "1 kB"\n')
    for arguments, code in ((), 1), (("--allow-missing",), 0), (("--exit-zero",), 0):
        assert call("check", "m.onnx", "--budgets", "other.toml", *arguments) == code
        assert "Check: no budget is for these files" in capsys.readouterr().out
    assert call("check", "m.onnx", "--budgets", "other.toml", "--format", "junit") == 1
    assert 'failures="1"' in capsys.readouterr().out
    assert call("check", "m.onnx", "--budgets", "tight.toml", "--target", "pixel-6") == 1
    assert "none for pixel-6, but for pixel-4: nothing would be checked" in capsys.readouterr().err
    (folder / "typed.toml").write_text('[budgets.pixel-44.onnx]\nsize = "1 kB"\n')
    assert call("check", "m.onnx", "--budgets", "typed.toml", "--target", "pixel-4") == 2
    (folder / "empty.toml").write_text("")
    assert call("check", "m.onnx", "--budgets", "empty.toml", "--target", "pixel-4") == 1


def test_whoever_names_a_device_and_no_budgets_may_want_its_estimates_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "idp-deploy.toml").write_text('[budgets.pixel-6.tflite]\nsize = "1 kB"\n')
    for device, code in ("pixel-4", 0), ("pixel-6", 0), ("", 1):
        assert call("check", "m.onnx", *(("--target", device) if device else ())) == code
        assert "Check: no budget is for these files" in capsys.readouterr().out
