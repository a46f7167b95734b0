"""Our checkpoints: round trips, bytes, ties, and shapes after channel removal."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import CompressedModel, MaskedModel, Provenance, Recipe
from idp_deploy.loading import (
    load_any,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from idp_deploy.quantization import quantize
from tests.loading_fixtures import (
    FACTORY,
    HERE,
    PROVENANCE,
    RECIPE,
    Net,
    X,
    build,
    compressed,
    edited,
    masked,
    put,
    same,
    source,
)


def test_compressed_round_trip(tmp_path: Path) -> None:
    model = compressed()
    save_checkpoint(model, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", FACTORY)
    assert isinstance(loaded, CompressedModel)
    assert same(loaded.module, model.module)
    assert loaded.masks.keys() == model.masks.keys()
    assert all(torch.equal(loaded.masks[k], m) and loaded.masks[k].dtype == torch.bool for k, m in model.masks.items())
    assert (loaded.recipe, loaded.provenance) == (RECIPE, PROVENANCE)
    assert loaded.quantization is not None
    assert (loaded.quantization.scheme, loaded.quantization.kept_float) == ("int8", {"stem.0.weight": "sensitive"})
    assert torch.equal(loaded.quantization.calibration[1][0], X[:1])
    assert loaded.zeros == model.zeros
    assert torch.equal(load_any(tmp_path / "c.pt", build).module(X), model.module(X))


@pytest.mark.parametrize("scheme", ["int8-weights", "lut4"])
def test_the_integers_of_a_quantized_model_come_back(scheme: str, tmp_path: Path) -> None:
    float_model = compressed()
    model = quantize(replace(float_model, quantization=None), scheme, example_inputs=(X,), threshold_db=0)
    save_checkpoint(model, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", FACTORY)
    assert isinstance(loaded, CompressedModel)
    assert loaded.quantization is not None
    assert model.quantization is not None
    assert loaded.quantization.levels.keys() == model.quantization.levels.keys() == model.quantization.covered
    for name, one in model.quantization.levels.items():
        assert (loaded.quantization.levels[name].q == one.q).all()
        assert (loaded.quantization.levels[name].values == loaded.module.get_parameter(name).detach().numpy()).all()


def test_a_quantized_checkpoint_of_an_earlier_version_loads(tmp_path: Path) -> None:
    loaded = load_checkpoint(
        edited(lambda c: c["quantization"].pop("levels"), compressed(), tmp_path / "c.pt"), FACTORY
    )
    assert isinstance(loaded, CompressedModel)
    assert loaded.quantization is not None
    assert not loaded.quantization.levels


def test_masked_round_trip(tmp_path: Path) -> None:
    model = masked()
    save_checkpoint(model, tmp_path / "s.pt")
    loaded = load_checkpoint(tmp_path / "s.pt", FACTORY)
    assert isinstance(loaded, MaskedModel)
    assert same(loaded.module, model.module)
    assert {k: vars(v) for k, v in loaded.soft_masks.items()} == {k: vars(v) for k, v in model.soft_masks.items()}
    assert (loaded.recipe, loaded.provenance) == (RECIPE, PROVENANCE)
    with pytest.raises(UsageError, match="idp-deploy harden"):
        load_any(tmp_path / "s.pt", FACTORY)


def test_anyone_can_read_the_checkpoint(tmp_path: Path) -> None:
    model = compressed()
    save_checkpoint(model, tmp_path / "c.pt")
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (content["format"], content["stage"]) == ("idp-deploy/1", "compressed")
    fresh = Net()
    fresh.load_state_dict(content["state_dict"], strict=True)
    assert same(fresh, model.module)
    assert content["shapes"]["stem.0.weight"] == [8, 3, 3, 3]
    bits = sum(m["bits"].numel() for m in content["masks"].values())
    assert bits == sum((mask.numel() + 7) // 8 for mask in model.masks.values())


def test_a_checkpoint_can_be_pruned_again(tmp_path: Path) -> None:
    model = compressed()
    save_checkpoint(model, tmp_path / "c.pt")
    assert same(load_model(tmp_path / "c.pt", FACTORY).module, model.module)


def test_plain_weights_keep_their_zeros(tmp_path: Path) -> None:
    model = compressed()
    torch.save(model.module.state_dict(), tmp_path / "m.pt")
    loaded = load_any(tmp_path / "m.pt", FACTORY)
    assert {name: mask.tolist() for name, mask in loaded.masks.items()} == {
        name: mask.tolist() for name, mask in model.masks.items()
    }
    assert loaded.recipe is None


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "elsewhere" / "other name.pt"
    save_checkpoint(compressed(), first)
    model = compressed()
    copied = Recipe(**{**vars(model.recipe), "options": {"".join(list("kappa")): 10.0, "groups": [1, 2]}})
    save_checkpoint(CompressedModel(model.module, model.masks, copied, model.quantization, model.provenance), second)
    assert first.read_bytes() == second.read_bytes()
    loaded = load_checkpoint(first, FACTORY)
    save_checkpoint(loaded, second)
    assert first.read_bytes() == second.read_bytes()


def test_same_bytes_from_another_process(tmp_path: Path) -> None:
    code = "import sys; from tests.loading_fixtures import *; save_checkpoint(compressed(build()), sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.pt")], check=True, cwd=Path(__file__).parents[1])
    save_checkpoint(compressed(build()), tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.hidden = nn.Linear(16, 16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.table.weight
        self.register_buffer("window", torch.arange(100.0)[10:20])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(self.table(x)))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    module = Tied()
    save_checkpoint(CompressedModel(module, {}), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", Tied)
    assert loaded.module.out.weight is loaded.module.table.weight
    assert same(loaded.module, module)
    content = torch.load(tmp_path / "c.pt", weights_only=True)["state_dict"]
    assert content["out.weight"].data_ptr() == content["table.weight"].data_ptr()
    assert content["window"].untyped_storage().nbytes() == 40


def test_saving_is_refused_where_it_would_harm(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "precious").write_text("x")
    with pytest.raises(FileError, match="is a directory"):
        save_checkpoint(compressed(), folder)
    assert (folder / "precious").read_text() == "x"
    with pytest.raises(FileError, match="cannot be written"):
        save_checkpoint(compressed(), folder / "precious" / "c.pt")
    target = tmp_path / "c.pt"
    target.write_text("old")
    odd = CompressedModel(source(), {}, Recipe(options={"callback": print}))
    with pytest.raises(UsageError, match="cannot be stored"):
        save_checkpoint(odd, target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "folder"]


def test_numpy_numbers_in_a_recipe_stay_readable(tmp_path: Path) -> None:
    import numpy as np

    options = {"kappa": np.float64(10), "n": np.int64(3), "x": np.float32(0.5)}
    save_checkpoint(CompressedModel(source(), {}, Recipe(options=options)), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", FACTORY)
    assert loaded.recipe is not None
    assert loaded.recipe.options == {"kappa": 10.0, "n": 3, "x": 0.5}


def test_no_factory_names_the_one_that_was_used(tmp_path: Path) -> None:
    save_checkpoint(compressed(), tmp_path / "c.pt")
    with pytest.raises(UsageError, match=f"--model {FACTORY}"):
        load_checkpoint(tmp_path / "c.pt")


def test_the_factory_in_the_file_is_never_called(tmp_path: Path) -> None:
    model = compressed()
    evil = Provenance(factory="os:abort")
    save_checkpoint(CompressedModel(model.module, model.masks, provenance=evil), tmp_path / "c.pt")
    assert load_checkpoint(tmp_path / "c.pt", FACTORY).provenance.factory == "os:abort"


def test_wrong_factory_for_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(compressed(), tmp_path / "c.pt")
    with pytest.raises(FileError, match="does not fit the module"):
        load_checkpoint(tmp_path / "c.pt", lambda: nn.Linear(3, 4))


def test_removed_channels_are_rebuilt_from_the_recorded_shapes(tmp_path: Path) -> None:
    small = Net(5)
    small(X)
    model = compressed(small)
    save_checkpoint(model, tmp_path / "c.pt")
    for factory in (FACTORY, f"{HERE}:build_wide"):
        for loaded in (load_checkpoint(tmp_path / "c.pt", factory), load_model(tmp_path / "c.pt", factory)):
            assert same(loaded.module, small)
            assert loaded.module.depthwise.groups == 5
            assert torch.equal(loaded.module(X), small(X))
    assert all(p.requires_grad for p in loaded.module.parameters())


class Heads(nn.Module):
    """Reads its own integers in forward, has tied weights and a recurrent layer."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, (heads, 4)
        self.query = nn.Linear(8, heads * 4)
        self.again = nn.Linear(8, heads * 4)
        self.again.weight = self.query.weight
        self.recurrent = nn.GRU(heads * 4, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = (self.query(x) + self.again(x)).unflatten(-1, self.size).softmax(-1)
        return self.recurrent(split.reshape(x.shape[0], x.shape[1], self.heads * 4))[0]


def test_integers_and_ties_follow_the_shapes(tmp_path: Path) -> None:
    small = Heads(2).eval()
    save_checkpoint(CompressedModel(small, {}), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", Heads).module
    assert (loaded.heads, loaded.size) == (2, (2, 4))
    assert loaded.again.weight is loaded.query.weight
    x = torch.randn(2, 3, 8)
    assert torch.equal(loaded(x), small(x))


def test_integers_of_untouched_modules_are_the_factorys(tmp_path: Path) -> None:
    change = put("attributes", "depthwise", "stride", value=(2, 2))
    loaded = load_checkpoint(edited(change, compressed(), tmp_path / "c.pt"), FACTORY)
    assert loaded.module.depthwise.stride == (1, 1)


class Adversaries(nn.Module):
    """A generator, and what judges it in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.judge = generator(), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.judge(self.generator(x))


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_part_of_the_model_in_a_checkpoint_is_taken_with_its_zeros_and_said(tmp_path: Path) -> None:
    whole = Adversaries()
    masks = {"generator.0.weight": torch.arange(32).reshape(8, 4) % 2 == 0}
    with torch.no_grad():
        whole.generator[0].weight.mul_(masks["generator.0.weight"])
    save_checkpoint(CompressedModel(whole, masks), tmp_path / "gan.pt")
    said: list[str] = []
    part = load_any(tmp_path / "gan.pt", generator, announce=said.append)
    assert part.zeros == 16
    assert all(torch.equal(a, b) for a, b in zip(part.module.parameters(), whole.generator.parameters(), strict=True))
    assert "taking the weights under 'generator'; not part of the model: 'judge.weight', 'judge.bias'" in said[0]
    with pytest.raises(
        UsageError, match=r"fits only a part of .*'generator\.0': beside it stand 'generator\.2\.weight'"
    ):
        load_any(tmp_path / "gan.pt", lambda: nn.Linear(4, 8))
    with pytest.raises(FileError, match="does not fit the module"):
        load_any(tmp_path / "gan.pt", lambda: nn.Linear(5, 8))
    content = torch.load(tmp_path / "gan.pt", weights_only=True)
    content["state_dict"]["generator.0.weight"] = torch.ones(8, 4)
    torch.save(content, tmp_path / "filled.pt")
    with pytest.raises(FileError, match="prunes weights that are not zero"):
        load_any(tmp_path / "filled.pt", Adversaries)


def test_a_model_that_was_prepared_for_quantization_aware_training_goes_to_the_float_factory(tmp_path: Path) -> None:
    module = source()
    for part in (module.head, module.stem):
        part.register_module("weight_fake_quant", observer := nn.Module())
        observer.register_buffer("scale", torch.ones(1))
    model = compressed(module)
    save_checkpoint(model, tmp_path / "qat.pt")
    for load in (load_checkpoint, load_model):
        found = load(tmp_path / "qat.pt", build).module.state_dict()
        assert found.keys() == build().state_dict().keys()
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in found.items())
    loaded = load_checkpoint(tmp_path / "qat.pt", build)
    assert isinstance(loaded, CompressedModel)
    assert loaded.zeros == model.zeros
