"""What a user names with -o: files of another kind stay, and what makes way is told of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import idp_deploy
from tests.cli_project import call


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of a pruned net with its zeros stored."""
    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    torch.manual_seed(0)
    model = idp_deploy.one_shot(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8)).eval(), sparsity=0.9)
    idp_deploy.export(model, "onnx", (torch.zeros(1, 64),), path, encoding="dense")
    return path


@pytest.fixture
def folder(project: Path, dense: Path) -> Path:
    shutil.copy(dense, project)
    return project


@pytest.mark.parametrize(
    ("arguments", "named", "says"),
    [
        ("prune model.pt --one-shot", "train.py", "a .py file that stands there, and no checkpoint"),
        ("prune model.pt --one-shot", "teacher.safetensors", "a model that stands there, and no checkpoint"),
        ("quantize model.pt --scheme fp16", "notes.ipynb", "a .ipynb file that stands there, and no checkpoint"),
        ("restore dense.onnx", "train.py", "a .py file that stands there, and no .onnx file"),
        ("restore dense.onnx", "teacher.tflite", "a model that stands there, and no .onnx file"),
        ("inspect dense.onnx", "train.py", "a .py file that stands there, and no report"),
        ("schema report", "teacher.onnx", "a model that stands there, and no report"),
        ("doctor", "data.csv", "a .csv file that stands there, and no report"),
        ("export model.pt --to onnx", "teacher.onnx", "teacher.onnx exists and was not written by idp-deploy"),
        ("export model.pt --to onnx", "train.py", "train.py is no folder"),
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_no_file_of_another_kind_makes_way_even_where_it_is_named(
    arguments: str, named: str, says: str, link: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / named
    place.write_text("mine")
    if link:
        Path("way" + place.suffix).symlink_to(named)
    given = "way" + place.suffix if link else named
    assert call(*arguments.split(), "-o", given) == 2
    assert says.replace(named, given) in capsys.readouterr().err
    assert place.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "named", "says"),
    [
        ("prune model.pt --one-shot", "base.pth", "what stands at base.pth was not written by idp-deploy"),
        ("restore dense.onnx", "base.onnx", "what stands at base.onnx was not written by idp-deploy"),
        ("inspect dense.onnx", "README.md", "wrote README.md, in place of what stood there"),
        ("schema report", "s.json", "wrote s.json, in place of what stood there"),
    ],
)
def test_what_makes_way_is_told_of(
    arguments: str, named: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(named).write_text("mine")
    assert call(*arguments.split(), "-o", named) == 0
    assert says in capsys.readouterr().err
    assert call(*arguments.split(), "-o", named) == 0
    assert "not written by idp-deploy" not in capsys.readouterr().err, "now it is ours"


@pytest.mark.parametrize("named", ["small.onnx", "small.safetensors"])
def test_no_checkpoint_is_called_like_another_kind_of_model(
    named: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prune", "model.pt", "--one-shot", "-o", named) == 2
    assert f"-o {named} is no name of a checkpoint — name it 'small.pt'" in capsys.readouterr().err
