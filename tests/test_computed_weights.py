"""Weights that a module computes from others at each call: one piece where a verb copies it, refused in loops."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm, weight_norm

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.loading import as_it_stands
from idp_deploy.pruning import Pruner, one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.pruning_fixtures import network
from tests.test_loading_parts import PARTS, parted

X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    **PARTS,
    "orthogonal": lambda layer: parametrizations.orthogonal(layer) if isinstance(layer, nn.Linear) else layer,
}


def computing(name: str) -> nn.Module:
    """Called once, so that an old weight norm holds the weight of that call, which torch does not copy."""
    net = parted(WRAPS[name])
    net(X)
    return net


@pytest.mark.wide
@pytest.mark.parametrize("name", WRAPS)
def test_verbs_prune_and_ship_the_weight_itself(name: str, tmp_path: Path) -> None:
    net = computing(name)
    before = net(X).detach()
    model = one_shot(Model(net), Recipe(0.6))
    assert model.zeros <= sum(int((model.module.get_parameter(n) == 0).sum()) for n in model.masks)
    assert len(model.masks) == 3
    assert model.zeros >= 0.59 * model.prunable
    assert torch.equal(net(X), before)  # the caller's module still computes its weights
    shipped = quantize(model, "int8-weights", example_inputs=(X,))
    assert verify(export(shipped, "onnx", (X,), tmp_path / "m.onnx").path, shipped, (X,)).passed


@pytest.mark.wide
@pytest.mark.parametrize("name", ["weight_norm", "parametrized weight_norm", "orthogonal"])
def test_a_model_as_it_is_ships_too(name: str, tmp_path: Path) -> None:
    net = computing(name)
    models = [as_it_stands(Model(net))] + ([CompressedModel(net, {})] if name != "orthogonal" else [])
    for number, model in enumerate(models):
        assert verify(export(model, "onnx", (X,), tmp_path / f"{number}.onnx").path, model, (X,)).passed


@pytest.mark.parametrize("name", WRAPS)
def test_a_loop_is_told_which_weight_and_which_call(name: str) -> None:
    with pytest.raises(UsageError, match=r"'[013].weight' is computed .* call torch.nn.utils.\S+\(layer, 'weight'\)"):
        Pruner(computing(name), sparsity=0.5, epochs=1)


def test_what_is_left_out_stays_computed_and_what_is_made_whole_is_pruned() -> None:
    net = computing("weight_norm")
    remove_weight_norm(net[0])
    pruner = Pruner(net, sparsity=0.5, epochs=1, skip=["1.weight", "3.weight"])
    assert pruner.left == {"1.weight": "matches skip '1.weight'", "3.weight": "matches skip '3.weight'"}
    assert int((pruner.finalize().module[0].weight == 0).sum()) == net[0].weight.numel() // 2


@pytest.mark.parametrize(
    "take",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        weight_norm,
        parametrizations.weight_norm,
    ],
)
def test_a_weight_that_is_taken_from_its_layer_after_prepare_is_named(take: Callable[[nn.Module], Any]) -> None:
    model = network()
    Pruner(model, sparsity=0.5, epochs=1).prepare()
    take(model[4])
    with pytest.raises(UsageError, match=r"'4.weight' is no parameter of its layer any more.* before prepare\(\)"):
        model(torch.randn(4, 20))


def test_a_torchscript_module_is_refused_with_the_way_out() -> None:
    for scripted in (torch.jit.script(nn.Sequential(nn.Linear(4, 4))), torch.jit.trace(nn.Linear(4, 4), X[0, 0, :4])):
        with pytest.raises(UsageError, match=r"TorchScript .* Python class .*state_dict\(\)"):
            Pruner(scripted)


def test_observers_of_quantization_aware_training_are_no_buffers_of_the_user() -> None:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    net = nn.Sequential(nn.Linear(4, 4)).train()
    net.qconfig = get_default_qat_qconfig("x86")
    net = prepare_qat(net)
    net(torch.randn(2, 4))
    with pytest.raises(ConversionError, match=r"quantization-aware training's: give the float model"):
        export(CompressedModel(net.eval(), {}), "onnx", (torch.randn(2, 4),), Path("never.onnx"))


def test_a_copy_is_apart_from_its_original() -> None:
    net = computing("parametrized spectral_norm")
    twin = deepcopy(net)
    one_shot(Model(net), Recipe(0.5))
    assert all(parametrize.is_parametrized(one[0]) for one in (net, twin))
    assert torch.equal(twin(X), net(X))
