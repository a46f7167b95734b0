"""Several files of weights in one folder: the one that fits the factory is taken, or the choice is the user's."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from idp_deploy.errors import IdpDeployError, UsageError
from idp_deploy.loading import load_any, load_model
from tests.checkpoint_layouts import Write, optimizer, weights
from tests.folder_layouts import CHOSEN, LAYERS, REFUSED, TAKEN, inside, laid, other
from tests.loading_fixtures import Net, build, same, source


@pytest.mark.parametrize("write", TAKEN.values(), ids=TAKEN)
def test_the_one_that_fits_is_taken(write: Write, tmp_path: Path) -> None:
    said: list[str] = []
    assert same(load_model(write(tmp_path), build, announce=said.append).module, source())
    assert not said


@pytest.mark.parametrize(("write", "key"), CHOSEN.values(), ids=CHOSEN)
def test_of_several_that_fit_none_is_taken_before_one_is_chosen(write: Write, key: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(UsageError, match="several sets of weights that fit") as refused:
        load_model(path, build)
    assert f"'{key}" in str(refused.value)
    assert "--weights-key" in refused.value.way_out
    assert same(load_model(path, build, weights_key=key).module, source())


@pytest.mark.parametrize(("write", "words", "way_out"), REFUSED.values(), ids=REFUSED)
def test_the_others_are_refused_with_the_way_out(write: Write, words: str, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(IdpDeployError, match=words) as caught:
        load_any(write(tmp_path), build)
    assert re.search(way_out, caught.value.way_out), caught.value


def test_a_folder_of_several_layers_is_taken_whole_by_the_factory_of_the_whole(tmp_path: Path) -> None:
    class Inner(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.auto_model = net

    path = laid(
        model__safetensors=weights, modules__json=LAYERS, **{"1_Pooling": inside(config__json="{}")},
        **{"2_Dense": inside(pytorch_model__bin=other)},
    )(tmp_path)  # fmt: skip
    found = load_model(path, lambda: nn.Sequential(Inner(Net()), nn.Identity(), nn.Linear(3, 5))).module
    assert same(found[0].auto_model, source())  # type: ignore[index,union-attr]
    dense = torch.load(path / "2_Dense" / "pytorch_model.bin")
    assert all(torch.equal(value, dense[name]) for name, value in found[2].state_dict().items())  # type: ignore[index]


def test_settings_that_fastai_keeps_beside_the_optimizer_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ModuleType("fastcore.foundation")
    home.L = kind = type("L", (), {"__module__": home.__name__})  # type: ignore[attr-defined]
    (kept := kind()).items = [{"lr": 0.1}]
    monkeypatch.setitem(sys.modules, "fastcore", ModuleType("fastcore"))
    monkeypatch.setitem(sys.modules, home.__name__, home)
    torch.save({"model": weights(), "opt": {"hypers": kept, "state": optimizer()}}, tmp_path / "m.pth")
    monkeypatch.undo()
    assert same(load_model(tmp_path / "m.pth", build).module, source())
