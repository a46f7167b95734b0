"""Averages of a model in training (EMA, SWA) and copies of any kind are hardened by its masks."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.loading import load_checkpoint, save_checkpoint
from idp_deploy.pruning import METHODS
from tests.pruning_fixtures import PRUNABLE, Blobs, X, fresh, network, pruner_of, train, zeros


class TimmEma(nn.Module):
    """As ModelEmaV2 has it: a deep copy whose whole state follows by a manual lerp."""

    def __init__(self, model: nn.Module, decay: float = 0.9) -> None:
        super().__init__()
        self.module, self.decay = deepcopy(model).eval(), decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            mine.copy_(self.decay * mine + (1 - self.decay) * theirs)


def averaged(kind: str, model: nn.Module) -> tuple[Any, Any]:
    """An average of `model` and its update."""
    if kind == "timm":
        return (ema := TimmEma(model)), lambda: ema.update(model)
    settings = {"multi_avg_fn": get_ema_multi_avg_fn(0.9)} if kind == "ema" else {}
    average = AveragedModel(model, **settings)
    return average, lambda: average.update_parameters(model)


@pytest.mark.wide
@pytest.mark.parametrize("kind", ["ema", "swa", "timm"])
@pytest.mark.parametrize("method", METHODS)
def test_averages_made_in_training_are_hardened_with_the_model(kind: str, method: str) -> None:
    model = network()
    pruner = pruner_of(model, method=method)
    pruner.prepare()
    train(model, pruner, 5)
    average, update = averaged(kind, model)
    for _ in range(15):
        train(model, pruner, 1)
        update()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", IdpDeployWarning)
        sparse = pruner.finalize()
    if method == "l1-channel":  # norms and biases go with the channels: only where it is asked for
        assert any("call pruner.apply_to(average)" in str(w.message) for w in said)
        pruner.apply_to(average)
    assert zeros(average.module) >= sparse.zeros
    for name, mask in sparse.masks.items():
        assert not average.module.get_parameter(name)[~mask].any()
    torch.testing.assert_close(fresh(average.module)(X), average.module.eval()(X))


def test_it_is_said_that_an_average_was_hardened_and_a_model_trained_apart_is_left_alone() -> None:
    model = network()
    pruner = pruner_of(model)
    train(pruner.prepare(), pruner, 5)
    apart, average = deepcopy(model), AveragedModel(model)

    class Nobody:
        def step(self) -> None:
            """No pruning."""

    train(apart, Nobody(), 3)
    for _ in range(15):
        train(model, pruner, 1)
        average.update_parameters(model)
    before = zeros(apart)
    with pytest.warns(IdpDeployWarning, match=r"an average of the model \(EMA, SWA\) was hardened .* 2,477 of 2,752"):
        pruner.finalize()
    assert zeros(apart) == before < 100
    assert zeros(average.module) == round(0.9 * PRUNABLE)


@pytest.mark.parametrize("method", ["idp", "str", "movement"])
def test_an_average_from_before_prepare_is_hardened_by_apply_to(method: str, tmp_path: Any) -> None:
    model = network()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    pruner = pruner_of(model, method=method)
    pruner.prepare()
    for _ in range(20):
        train(model, pruner, 1)
        ema.update_parameters(model)
    sparse = pruner.finalize()
    assert zeros(ema.module) == 0
    hard = pruner.apply_to(ema)
    assert hard.zeros == zeros(ema.module) == sparse.zeros
    update_bn([batch[0] for batch in Blobs().train_loader(0)], ema)
    save_checkpoint(hard, tmp_path / "ema.pt")
    again = load_checkpoint(tmp_path / "ema.pt", network)
    assert again.zeros == sparse.zeros
    torch.testing.assert_close(again.module(X), ema.module.eval()(X))


@pytest.mark.parametrize("wrap", ["bare", "module", "compiled", "inside another"])
def test_apply_to_finds_the_weights_under_any_wrapper(wrap: str) -> None:
    model = network()
    pruner = pruner_of(model)
    train(pruner.prepare(), pruner, 20)
    sparse = pruner.finalize()
    other = network(5)
    wrapped = {
        "bare": other,
        "module": nn.ModuleDict({"module": other}),
        "compiled": torch.compile(other),
        "inside another": nn.ModuleDict({"head": nn.Linear(3, 3), "net": nn.ModuleDict({"student": other})}),
    }[wrap]
    hard = pruner.apply_to(wrapped)
    assert hard.module is other
    assert zeros(other) == sparse.zeros == hard.zeros
    assert list(hard.masks) == list(sparse.masks)


class Adapted(nn.Module):
    """A layer with a low-rank adapter, under peft's names."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        self.base_layer.weight += self.lora_B["default"].weight @ self.lora_A["default"].weight
        return self.base_layer


@pytest.mark.parametrize("skip", [["*lora*"], []])
def test_a_model_whose_adapters_were_merged_is_hardened_by_apply_to(skip: list[str]) -> None:
    model = network()
    model[4] = Adapted(model[4])
    wrapped = nn.ModuleDict({"base_model": nn.ModuleDict({"model": model})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the adapter
        pruner = pruner_of(wrapped, skip=skip)
        pruner.prepare()
    train(model, pruner, 20)
    sparse = pruner.finalize()
    model[4] = model[4].merged()
    hard = pruner.apply_to(model)
    assert list(hard.masks) == ["0.weight", "4.weight", "6.weight"]
    pruned = {name.replace(".base_layer", ""): mask for name, mask in sparse.masks.items() if "lora" not in name}
    for name, mask in hard.masks.items():
        assert torch.equal(mask, pruned[f"base_model.model.{name}"])
        assert not model.get_parameter(name)[~mask].any()
    assert hard.zeros == zeros(model) > 0


def test_apply_to_a_state_dict_returns_another_one() -> None:
    model = network()
    pruner = pruner_of(model)
    train(pruner.prepare(), pruner, 10)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, pruner, 10)
    pruner.finalize()
    hard = pruner.apply_to(best)
    assert sum(int((value == 0).sum()) for name, value in hard.items() if value.dim() > 1) == round(0.9 * PRUNABLE)
    assert not (best["0.weight"] == 0).any()
    network().load_state_dict(hard)


def test_what_is_no_copy_is_refused() -> None:
    pruner = pruner_of(network())
    train(pruner.prepare(), pruner, 20)
    pruner.finalize()
    with pytest.raises(UsageError, match=r"no copy of the pruned model: no weight like '0\.weight' \(48, 20\)"):
        pruner.apply_to(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(UsageError, match=r"there 2 times: under 'a\.', 'b\.'"):
        pruner.apply_to(nn.ModuleDict({"a": network(), "b": network()}))
    with pytest.raises(UsageError, match="int is neither a module nor a state dict"):
        pruner.apply_to(3)


def test_an_average_is_looked_at_with_hard_masks_on_the_way() -> None:
    model = network()
    pruner = pruner_of(model)
    pruner.prepare()
    ema = AveragedModel(model)
    train(model, pruner, 8)
    ema.update_parameters(model)
    before = deepcopy(ema.module.state_dict())
    with pruner.hardened(ema) as inside:
        assert inside is ema
        assert zeros(ema.module) == pruner.report().zeros > 0
    assert all(torch.equal(a, b) for a, b in zip(before.values(), ema.module.state_dict().values(), strict=True))
