"""A model that changes under its masks: layers replaced, wrapped, tied, untied, added or kept from training."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from idp_deploy import export, save_checkpoint, verify
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.ledger import refuse_filled
from idp_deploy.pruning import Pruner
from tests.pruning_fixtures import PRUNABLE, Blobs, network, pruner_for, train, zeros

INPUTS, LABELS = Blobs().train.tensors
TARGET = round(0.9 * PRUNABLE)
Change = Callable[[nn.Sequential], Any]


def square() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 8))


def tied() -> nn.Sequential:
    model = square()
    model[2].weight = model[0].weight
    return model


def with_tied_layer(model: nn.Sequential) -> None:
    model[2].weight = model[0].weight


def without_tied_layer(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())


def wrapped(model: nn.Sequential) -> None:
    model[4] = nn.Sequential(model[4])


def shared(model: nn.Sequential) -> None:
    new = nn.Linear(48, 32)
    new.weight = model[4].weight
    model[4] = new


@pytest.mark.parametrize(
    ("made", "change", "said"),
    [
        (network, lambda m: m.__setitem__(6, nn.Linear(32, 8)), r"weight '6\.weight' is not the one that was pruned"),
        (network, lambda m: m.__setitem__(6, nn.Linear(32, 10)), r"weight '6\.weight' is not the one that was pruned"),
        (network, lambda m: m.__setitem__(6, nn.Identity()), r"weight '6\.weight' is not the one that was pruned"),
        (
            network,
            wrapped,
            r"weight '4\.weight' is not the one that was pruned so far: its layer was replaced, wrapped",
        ),
        (network, shared, r"weight '4\.weight' is not the one that was pruned so far"),
        (square, with_tied_layer, r"weights '0\.weight' and '2\.weight' have become one since prepare\(\)"),
        (tied, without_tied_layer, r"weight '2\.weight' is not the one .* the mask of '0\.weight' stayed"),
    ],
)
def test_layers_that_are_replaced_wrapped_or_tied_in_training_are_refused_by_name(
    made: Callable[[], nn.Sequential], change: Change, said: str
) -> None:
    model = made()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 7)
    change(model)
    for call in (pruner.finalize, lambda: pruner.hardened().__enter__(), lambda: train(model, pruner, 4)):
        with pytest.raises(UsageError, match=f"{said}.* — replace, wrap, tie or untie layers before Pruner"):
            call()


def test_a_weight_of_another_shape_is_named_by_its_own_forward() -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 7)
    model[6].weight = nn.Parameter(torch.zeros(10, 32))
    with pytest.raises(UsageError, match=r"'6\.weight' is \(10, 32\) now, and was \(8, 32\) when its mask was made"):
        model(INPUTS)


@pytest.mark.parametrize("after", [3, 18])
@pytest.mark.parametrize("change", [lambda w: torch.cat([w, w[:2]]), lambda w: w[:, :16].contiguous()])
def test_values_of_another_shape_are_refused_before_their_mask_follows(
    change: Callable[[torch.Tensor], torch.Tensor], after: int
) -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, after)
    model[6].weight.data = change(model[6].weight.data)
    for call in (lambda: model(INPUTS), pruner.step, pruner.finalize, lambda: pruner.hardened().__enter__()):
        with pytest.raises(
            UsageError, match=r"weight '6\.weight' .*\((10, 32|8, 16)\).* — replace, wrap, tie or untie"
        ):
            call()


def tied_by_data(model: nn.Sequential) -> None:
    model[2].weight.data = model[0].weight.data


def overlapping(model: nn.Sequential) -> None:
    memory = torch.randn(30, 20)
    model[0].weight.data, model[2].weight.data = memory[:20], memory[10:]


def side_by_side(model: nn.Sequential) -> None:
    memory = torch.randn(40, 20)
    model[0].weight.data, model[2].weight.data = memory[20:], memory[:20]


def expanded(model: nn.Sequential) -> None:
    model[0].weight.data = torch.randn(1, 20).expand(20, 20)


TWO = r"weights '0\.weight' and '2\.weight' are two parameters in the same memory.* — tie them as one parameter"


@pytest.mark.parametrize(
    ("change", "said"),
    [(tied_by_data, TWO), (overlapping, TWO), (expanded, r"entries of weight '0\.weight' lie in the same memory")],
)
def test_masks_do_not_share_memory(change: Change, said: str) -> None:
    model = square()
    change(model)
    with pytest.raises(UsageError, match=said):
        pruner_for(model).prepare()
    model = square()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 7)
    change(model)
    with pytest.raises(UsageError, match=said):
        pruner.hardened().__enter__()


def test_weights_side_by_side_in_one_memory_are_pruned() -> None:
    model = square()
    side_by_side(model)
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 20)
    assert pruner.finalize().zeros == round(0.9 * 960)


@pytest.mark.filterwarnings("error")
def test_a_weight_that_is_no_parameter_any_more_is_named_and_stays() -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 7)
    del model[6].weight
    model[6].weight = torch.ones(8, 32)
    with pytest.raises(UsageError, match=r"'6\.weight' is no parameter of its layer any more"):
        model(INPUTS)
    assert model[6].weight.sum() == 8 * 32


def test_values_put_into_a_layer_stay_and_layers_that_came_later_are_told_of() -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 5)
    model[6].weight = nn.Parameter(torch.randn(8, 32))
    model.append(nn.Linear(8, 8))
    train(model, pruner, 15)
    with pytest.warns(IdpDeployWarning, match=r"came into the model after Pruner\(model\) stay dense: 1, '7\.weight'"):
        assert pruner.finalize().zeros == TARGET


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Linear(32, 10), r"'6\.weight' was pruned as \(8, 32\) and is \(10, 32\) now: its layer was replaced"),
        (nn.Identity(), r"'6\.weight' was pruned as \(8, 32\) and is not in the model any more"),
        (nn.Linear(32, 8), r"in '6\.weight': the weights were written to .* a new layer"),
    ],
)
def test_a_layer_replaced_after_hardening_is_refused_before_it_ships(layer: nn.Module, said: str) -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 20)
    sparse = pruner.finalize()
    model[6] = layer
    assert sparse.zeros < TARGET
    with pytest.raises(UsageError, match=said):
        refuse_filled(sparse)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.append(nn.Linear(8, 8)), r"ship dense: 64 entries, '7\.weight' first"),
        (lambda m: m.__setitem__(6, nn.Linear(32, 100)), r"ship dense: 3,200 entries, '6\.weight' first"),
    ],
)
def test_a_layer_that_comes_after_hardening_is_named_where_it_ships(change: Change, said: str, tmp_path: Path) -> None:
    model = network()
    pruner = pruner_for(model, skip=["6.*"])
    train(pruner.prepare(), pruner, 20)
    sparse = pruner.finalize()
    change(model.eval())
    with pytest.warns(IdpDeployWarning, match=said):
        export(sparse, "onnx", (INPUTS[:2],), tmp_path / "model.onnx")
    with pytest.warns(IdpDeployWarning, match=said):
        save_checkpoint(sparse, tmp_path / "model.pt")


def test_pruned_weights_that_do_not_train_are_told_of() -> None:
    model = nn.ModuleDict({"student": network(), "teacher": network(1).requires_grad_(False)})
    with pytest.warns(IdpDeployWarning, match=r"3 of 6 pruned weights do not train .*, 'teacher\.0\.weight' first"):
        pruner_for(model).prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner_for(nn.ModuleDict({"student": network(), "teacher": model["teacher"]}), skip=["teacher.*"]).prepare()


def test_an_adapter_in_the_model_is_told_of_before_it_is_merged() -> None:
    model = network()
    model[4].register_module("lora_A", nn.Linear(48, 4, bias=False))
    with pytest.warns(IdpDeployWarning, match=r"holds an adapter \('4\.lora_A\.weight'\), and merging it fills"):
        pruner_for(model, skip=["*lora*"]).prepare()


def test_frozen_weights_beside_an_adapter_are_told_of_in_the_same_sentence() -> None:
    model = network()
    model.requires_grad_(False)
    model[4].register_module("lora_A", nn.Linear(48, 4, bias=False))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pruner_for(model, skip=["*lora*"]).prepare()
    (only,) = told
    assert "holds an adapter ('4.lora_A.weight')" in str(only.message)
    assert "3 of 3 pruned weights do not train beside it" in str(only.message)


def test_another_optimizer_may_take_over() -> None:
    model = network()
    first = torch.optim.SGD(model.parameters(), 0.1)
    pruner = pruner_for(model, 12, optimizer=first)
    pruner.prepare()

    def run(*optimizers: torch.optim.Optimizer) -> None:
        nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        pruner.step()

    halves = [torch.optim.SGD(part.parameters(), 0.1) for part in (model[:3], model[3:])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizers in ([first], [torch.optim.Adam(model.parameters())], halves, halves[:1], halves[1:], [first]):
            run(*optimizers)
            run(*optimizers)
        assert pruner.finalize(on_unfinished="raise").zeros == TARGET


def test_steps_in_inference_mode_leave_a_model_that_trains() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = pruner_for(model, optimizer=optimizer)
    with torch.inference_mode():
        pruner.prepare()
    for _ in range(20):
        nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.inference_mode():
            pruner.step()
    with torch.inference_mode():
        sparse = pruner.finalize()
    sparse.module(INPUTS).sum().backward()
    assert sparse.zeros == TARGET


def test_masks_that_were_taken_off_do_not_go_on() -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 10)
    pruner.detach()
    with pytest.raises(UsageError, match=r"step\(\) without masks in the model: .* after detach\(\)"):
        train(model, pruner, 1)
    pruner.prepare()
    train(model, pruner, 10)
    assert pruner.finalize().zeros == TARGET


@pytest.mark.parametrize("copied", [deepcopy, lambda pruner: pickle.loads(pickle.dumps(pruner))])
def test_a_copy_of_a_pruner_says_what_to_do_when_it_is_asked(copied: Callable[[Pruner], Pruner]) -> None:
    model = network()
    pruner = pruner_for(model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    train(pruner.prepare(), pruner, 10)
    copy = copied(pruner)
    with pytest.raises(UsageError, match=r"a copy \(deepcopy, pickle\) of a Pruner.* — save its state_dict\(\)"):
        copy.step()


def test_weights_written_over_frozen_zeros_are_hard_inside_hardened() -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # as an average that is swapped in
    before = model[0].weight.detach().clone()
    saved = io.BytesIO()
    with pruner.hardened(), pruner.hardened():
        torch.save(model.state_dict(), saved)
        assert zeros(model) == pruner.report().zeros == TARGET
    assert torch.equal(model[0].weight, before)
    saved.seek(0)
    model.load_state_dict(torch.load(saved, weights_only=True))
    assert pruner.finalize().zeros == TARGET


def test_a_state_of_another_plan_and_one_from_before_all_zeros_are_told_of() -> None:
    model = network()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 8)
    with pruner.hardened():
        early = deepcopy([model.state_dict(), pruner.state_dict()])
    with pytest.warns(IdpDeployWarning, match=r"planned for 20 steps .*, and this training has 40"):
        pruner_for(network(), 40).load_state_dict(early[1])
    train(model, pruner, 12)
    model.load_state_dict(early[0])
    pruner.load_state_dict(early[1])
    with pytest.warns(IdpDeployWarning, match=r"those of an earlier step that was loaded, with [\d,]+ of 2,477 zeros"):
        assert pruner.finalize().zeros == TARGET


def test_a_run_that_was_left_behind_does_not_stop_the_next_one() -> None:
    left = network()
    abandoned = pruner_for(left, optimizer=torch.optim.SGD(left.parameters(), 0.1))
    abandoned.prepare()
    nn.utils.parametrizations.weight_norm(left[0])
    model = network()
    pruner = pruner_for(model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    train(pruner.prepare(), pruner, 20)
    assert pruner.finalize().zeros == TARGET
    with pytest.raises(UsageError, match=r"'0\.weight' is no parameter of its layer any more"):
        abandoned.step()


def test_a_model_that_is_exported_in_the_middle_of_its_training_is_told_of(tmp_path: Path) -> None:
    model = network().eval()
    pruner = pruner_for(model)
    train(pruner.prepare(), pruner, 10)
    with pytest.warns(IdpDeployWarning, match=r"still in training under .* Pruner: '0\.weight'.*hardened\(\)"):
        export(model, "onnx", (INPUTS[:2],), tmp_path / "soft.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdpDeployWarning)
        with pruner.hardened():
            export(model, "onnx", (INPUTS[:2],), tmp_path / "hard.onnx")
        train(model, pruner, 10)
        export(pruner.finalize(), "onnx", (INPUTS[:2],), tmp_path / "model.onnx")
    assert verify(tmp_path / "hard.onnx").passed


def test_weights_made_in_inference_mode_are_refused_by_name() -> None:
    with torch.inference_mode():
        model = network()
    with pytest.raises(UsageError, match=r"weight '0\.weight' was made in torch\.inference_mode"):
        pruner_for(model).finalize()
    assert pruner_for(deepcopy(model)).prepare()
