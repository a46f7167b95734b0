"""Checkpoints as other tools leave them: taken bit for bit, or refused with the way out; none is half-loaded."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from idp_deploy import one_shot
from idp_deploy.errors import FileError, IdpDeployError, UnsafeFileError, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.loading import load_any, load_checkpoint, load_model, load_module, save_checkpoint
from tests.checkpoint_layouts import (
    CHOSEN,
    SAID,
    TAKEN,
    Write,
    distributed,
    ema,
    prefixed,
    saved,
    weights,
)
from tests.loading_fixtures import build, same, source
from tests.refused_layouts import REFUSED, Touch


@pytest.mark.wide
@pytest.mark.parametrize("write", TAKEN.values(), ids=TAKEN)
def test_every_layout_is_taken_bit_for_bit(write: Write, tmp_path: Path) -> None:
    expected = source()
    said: list[str] = []
    found = load_model(write(tmp_path), build, announce=said.append).module
    counters = {n: v for n, v in found.state_dict().items() if n.endswith("num_batches_tracked")}
    expected.load_state_dict(counters, strict=False)
    assert same(found, expected)
    assert not said


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_exactly(kind: torch.dtype, tmp_path: Path) -> None:
    state = {n: v.to(kind) if v.is_floating_point() else v for n, v in weights().items()}
    found = load_model(saved(lambda: state)(tmp_path), build).module.state_dict()
    assert all(found[n].dtype == (torch.float32 if v.is_floating_point() else v.dtype) for n, v in state.items())
    assert all(torch.equal(found[n], v.to(found[n].dtype)) for n, v in state.items())


@pytest.mark.parametrize(
    ("kind", "places", "known"), [(torch.float32, 2049, True), (torch.half, 9, True), (torch.half, 2049, False)]
)
def test_integers_that_were_saved_as_floats_are_taken_where_these_hold_them(
    kind: torch.dtype, places: int, known: bool, tmp_path: Path
) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net.register_buffer("places", torch.arange(places))
    path = saved(lambda: {name: value.to(kind) for name, value in net.state_dict().items()})(tmp_path)

    def build_places() -> nn.Module:
        made = nn.Sequential(nn.Linear(2, 2))
        made.register_buffer("places", torch.zeros(places, dtype=torch.int64))
        return made

    if known:
        assert torch.equal(load_model(path, build_places).module.state_dict()["places"], torch.arange(places))
        return
    with pytest.raises(FileError, match=r"'places' is float16, but .* has int64 — save the integer weights"):
        load_model(path, build_places)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_in_eight_bits_are_taken_as_they_were_rounded_and_said(kind: torch.dtype, tmp_path: Path) -> None:
    state = {n: v.to(kind) if v.dim() > 1 else v for n, v in weights().items()}
    said: list[str] = []
    found = load_model(saved(lambda: state)(tmp_path), build, announce=said.append).module.state_dict()
    assert all(torch.equal(found[n], v.to(found[n].dtype)) for n, v in state.items())
    count, first = sum(v.dtype == kind for v in state.values()), next(n for n, v in state.items() if v.dtype == kind)
    (line,) = said
    assert f"{count} tensors are {str(kind).removeprefix('torch.')}, as '{first}'" in line


@pytest.mark.parametrize(("write", "words"), SAID.values(), ids=SAID)
def test_what_stands_beside_the_weights_is_said(write: Write, words: str, tmp_path: Path) -> None:
    said: list[str] = []
    assert same(load_model(write(tmp_path), build, announce=said.append).module, source())
    assert words in "\n".join(said)
    with pytest.warns(UserWarning, match="taken|taking"):
        load_any(write(tmp_path / "again" if (tmp_path / "again").mkdir() is None else tmp_path), build)


@pytest.mark.parametrize(("write", "key"), CHOSEN.values(), ids=CHOSEN)
def test_weights_key_chooses(write: Write, key: str, tmp_path: Path) -> None:
    said: list[str] = []
    assert same(load_model(write(tmp_path), build, weights_key=key, announce=said.append).module, source())


@pytest.mark.parametrize(("write", "words", "way_out"), REFUSED.values(), ids=REFUSED)
def test_every_other_layout_is_refused_with_the_way_out(write: Write, words: str, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(IdpDeployError, match=words) as caught:
        load_model(write(tmp_path), build)
    assert re.search(way_out, caught.value.way_out), caught.value
    assert "\n" not in str(caught.value)


def test_a_key_that_names_what_mmengine_exchanged_is_told_so(tmp_path: Path) -> None:
    state = {"steps": torch.tensor(5), **prefixed("module.")}
    said: list[str] = []
    path = saved(lambda: {"state_dict": ema(), "ema_state_dict": state})(tmp_path)
    assert same(load_model(path, build, weights_key="ema_state_dict", announce=said.append).module, source())
    assert "are those before averaging: mmengine exchanges them" in said[0]


@pytest.mark.parametrize("load", [load_any, load_model])
def test_a_key_chooses_nothing_in_a_checkpoint_of_ours(load: Any, tmp_path: Path) -> None:
    save_checkpoint(one_shot(Model(source()), Recipe(sparsity=0.5)), tmp_path / "ours.pt")
    assert load(tmp_path / "ours.pt", build, weights_key="state_dict").module
    with pytest.raises(UsageError, match=r"--weights-key ema: .*ours\.pt is a checkpoint of idp-deploy, and holds one"):
        load(tmp_path / "ours.pt", build, weights_key="ema")


def test_an_unknown_key_names_those_that_fit(tmp_path: Path) -> None:
    path = saved(lambda: {"state_dict": weights(), "state_dict_ema": ema()})(tmp_path)
    with pytest.raises(UsageError, match=r"holds no weights of .* under that key — did you mean 'state_dict_ema'"):
        load_model(path, build, weights_key="state_dict_emma")


def test_weights_of_a_larger_file_need_their_key(tmp_path: Path) -> None:
    path = saved(lambda: {**prefixed("nets.0."), "nets.1.weight": torch.ones(3)})(tmp_path)
    said: list[str] = []
    assert same(load_model(path, build, weights_key="nets.0", announce=said.append).module, source())
    assert "'nets.1.weight'" in said[0]


def test_objects_in_a_checkpoint_are_never_built(tmp_path: Path) -> None:
    torch.save({"state_dict": weights(), "evil": Touch(tmp_path / "ran")}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError):
        load_model(tmp_path / "m.pt", build)
    torch.save({"state_dict": weights(), "args": argparse.Namespace(x=Touch(tmp_path / "ran"))}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError):
        load_model(tmp_path / "m.pt", build)
    assert not (tmp_path / "ran").exists()


def test_the_index_of_a_distributed_checkpoint_runs_nothing(tmp_path: Path) -> None:
    path = distributed(weights)(tmp_path)
    (path / ".metadata").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(UnsafeFileError, match="its index wants to build"):
        load_model(path, build)
    assert not (tmp_path / "ran").exists()


def test_endless_lists_are_refused(tmp_path: Path) -> None:
    inner: Any = [0] * 1000
    for _ in range(5):
        inner = [inner] * 1000
    torch.save({"state_dict": weights(), "x": inner}, tmp_path / "m.pt")
    with pytest.raises(FileError, match="more than"):
        load_model(tmp_path / "m.pt", build)


def test_what_a_library_has_read_under_other_names_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "image_size": 16, "patch_size": 8, "num_labels": 2}
    config = transformers.ViTConfig(num_hidden_layers=1, num_attention_heads=2, **sizes)
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    factory = "transformers:ViTForImageClassification.from_pretrained(pretrained_model_name_or_path='vit')"
    file = Path("vit/model.safetensors")
    own = load_module(factory).state_dict()
    said: list[str] = []
    taken = load_model(file, factory, announce=said.append).module.state_dict()
    assert all(torch.equal(taken[name], own[name]) for name in own)
    other = {f"x.{name}": value + 1 for name, value in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(other, tmp_path / "vit" / "other.safetensors")
    with pytest.raises(FileError, match="does not fit the module"):
        load_model(tmp_path / "vit" / "other.safetensors", factory, announce=said.append)


class Spectral(nn.Module):
    """As Fourier neural operators have it: weights that are complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.modes = nn.Linear(8, 16), nn.Parameter(torch.randn(16, 5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.einsum("bi,io->bo", self.lift(x).to(torch.complex64), self.modes))


def test_complex_weights_of_a_complex_module_are_taken_and_others_are_not(tmp_path: Path) -> None:
    state = Spectral().state_dict()
    torch.save(state, path := tmp_path / "m.pt")
    loaded = load_model(path, Spectral)
    assert torch.equal(loaded.module.get_parameter("modes"), state["modes"])
    save_checkpoint(one_shot(loaded, sparsity=0.5), tmp_path / "sparse.pt")
    again = load_checkpoint(tmp_path / "sparse.pt", Spectral)
    assert torch.equal(again.module.get_parameter("modes"), state["modes"])
    assert again.zeros == 64
    torch.save({**state, "modes": state["modes"].real}, path)
    with pytest.raises(FileError, match=r"'modes' is float32, but .* has complex64 — save the complex weights"):
        load_model(path, Spectral)
