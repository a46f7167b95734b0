"""Copies of a model in training mean what the model means."""

from __future__ import annotations

import gc
import io
import warnings
from copy import deepcopy
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, register_optimizer_step_post_hook

from idp_deploy import one_shot, quantize
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.loading import load_checkpoint, save_checkpoint
from idp_deploy.pruning import METHODS, Pruner
from idp_deploy.pruning.optimizers import at_each_step
from tests.pruning_fixtures import PRUNABLE, Blobs, X, fresh, network, pruner_of, train, zeros


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [3, 9, 19])
def test_a_deep_copy_in_training_is_plain_and_computes_what_the_model_does(method: str, after: int) -> None:
    model = network()
    pruner = pruner_of(model, method=method)
    train(pruner.prepare(), pruner, after)
    copied, outputs = deepcopy(model).eval(), model.eval()(X)
    torch.testing.assert_close(copied(X), outputs)
    torch.testing.assert_close(fresh(copied)(X), outputs)
    train(model.train(), pruner, 20 - after)
    pruner.finalize()
    torch.testing.assert_close(copied(X), outputs)  # a snapshot stays what it was


@pytest.mark.parametrize("method", ["idp", "str", "movement", "gmp"])
def test_a_pickled_model_is_plain_too(method: str) -> None:
    model = network()
    pruner = pruner_of(model, method=method)
    train(pruner.prepare(), pruner, 9)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(fresh(loaded)(X), model.eval()(X))
    torch.testing.assert_close(loaded.eval()(X), model(X))


@pytest.mark.parametrize("after", [0, 9])
def test_a_model_on_its_way_to_another_process_is_plain_and_leaves_the_senders_weights(after: int) -> None:
    model = network().share_memory()
    pruner = pruner_of(model)
    train(pruner.prepare(), pruner, after)
    before, outputs = deepcopy(model.state_dict()), deepcopy(model).eval()(X)
    sent = ForkingPickler.dumps(model)  # as to a process that is spawned: memory is mapped there
    received = ForkingPickler.loads(sent)
    torch.testing.assert_close(received.eval()(X), outputs)
    torch.testing.assert_close(fresh(received)(X), outputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_copy_of_attention_and_of_tied_layers_is_plain() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    pruner = Pruner(model, sparsity=0.8, epochs=4, dense=0.0, ramp=0.0)
    pruner.prepare()
    x = torch.randn(2, 5, 16)
    copied = deepcopy(model)
    torch.testing.assert_close(copied(x), model(x))
    assert not torch.equal(copied.self_attn.out_proj.weight, model.self_attn.out_proj.weight)
    tied = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False))
    tied[2].weight = tied[0].weight
    Pruner(tied, sparsity=0.5, epochs=4, dense=0.0, ramp=0.0).prepare()
    twin = deepcopy(tied)
    assert twin[0].weight is twin[2].weight
    torch.testing.assert_close(twin(x[0]), tied(x[0]))


def test_a_copy_of_a_recurrent_layer_is_plain() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(8, 16, num_layers=2, bidirectional=True)
    Pruner(model, sparsity=0.8, epochs=4, dense=0.0, ramp=0.0).prepare()
    x = torch.randn(5, 2, 8)
    copied = deepcopy(model)
    torch.testing.assert_close(copied(x)[0], model(x)[0])
    plain = nn.LSTM(8, 16, num_layers=2, bidirectional=True)
    plain.load_state_dict(copied.state_dict())
    torch.testing.assert_close(plain(x)[0], copied(x)[0])


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_inside_hardened_is_hard_and_resumes_to_the_same_weights(method: str) -> None:
    def run(stop: bool) -> tuple[nn.Module, int]:
        torch.manual_seed(0)
        model = network().eval()  # no dropout
        pruner = pruner_of(model, method=method, refresh=1) if method == "idp" else pruner_of(model, method=method)
        train(pruner.prepare(), pruner, 9)
        if stop:
            with pruner.hardened():
                saved = io.BytesIO()
                torch.save({"model": model.state_dict(), "pruner": pruner.state_dict()}, saved)
                assert zeros(model) >= pruner.report().zeros
            saved.seek(0)
            state = torch.load(saved, weights_only=True)
            model = network(4).eval()
            model.load_state_dict(state["model"])
            pruner = pruner_of(model, method=method, refresh=1) if method == "idp" else pruner_of(model, method=method)
            pruner.load_state_dict(state["pruner"])
            pruner.prepare()
        train(model, pruner, 11)
        return model, pruner.finalize().zeros

    (whole, expected), (parted, found) = run(False), run(True)
    assert found == expected
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
def test_the_best_hardened_weights_are_what_stays_when_they_are_loaded_before_finalize(method: str) -> None:
    model = network()
    pruner = pruner_of(model, method=method, steps=40)
    train(pruner.prepare(), pruner, 26)
    with pruner.hardened():
        best, outputs = deepcopy(model.state_dict()), model.eval()(X)
    complete, count = pruner.complete, zeros(network().requires_grad_(False))
    train(model.train(), pruner, 14)
    model.load_state_dict(best)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", IdpDeployWarning)
        sparse = pruner.finalize()
    assert count == 0
    if complete:
        assert not [str(w.message) for w in said]
        torch.testing.assert_close(sparse.module.eval()(X), outputs)
    else:  # a method in its dense phase
        assert any("were written to after the last step()" in str(w.message) for w in said)
    assert sparse.zeros >= pruner.report().target_zeros - 8


def test_dense_weights_loaded_before_finalize_are_told_of() -> None:
    model = network()
    pruner = pruner_of(model)
    best = deepcopy(model.state_dict())
    train(pruner.prepare(), pruner, 20)
    model.load_state_dict(best)
    with pytest.warns(
        IdpDeployWarning, match=r"written to after the last step\(\).*2,477 entries that are zero by the"
    ):
        sparse = pruner.finalize()
    assert sparse.zeros == zeros(model) == round(0.9 * PRUNABLE)


def test_finalize_again_and_steps_after_it_put_the_zeros_back() -> None:
    model = network()
    pruner = pruner_of(model)
    train(pruner.prepare(), pruner, 20)
    sparse = pruner.finalize()

    class Nobody:
        def step(self) -> None:
            """No pruning."""

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(X).square().sum().backward()
    optimizer.step()
    assert sparse.zeros < 1000  # counted in the weights
    assert pruner.report().zeros == sparse.zeros
    with pytest.warns(IdpDeployWarning, match="were filled, and are zero again"):
        assert pruner.finalize().zeros == round(0.9 * PRUNABLE)
    train(model, pruner, 3)
    assert sparse.zeros == pruner.report().zeros == round(0.9 * PRUNABLE)


def test_two_pruners_on_one_model_are_refused() -> None:
    model = network()
    first = pruner_of(model)
    first.prepare()
    first.prepare()
    with pytest.raises(UsageError, match=r"'0\.weight' carries the mask of another Pruner"):
        pruner_of(model).prepare()
    first.finalize()
    pruner_of(model).prepare()


@pytest.mark.filterwarnings("error::idp_deploy.errors.IdpDeployWarning")
def test_what_was_pruned_or_quantized_on_the_way_stays_as_it_is() -> None:
    model = network()
    pruner = pruner_of(model)
    train(pruner.prepare(), pruner, 10)
    looks = [one_shot(model, sparsity=0.5), quantize(model, "int8-weights")]
    before = [deepcopy(look.module.state_dict()) for look in looks]
    train(model, pruner, 10)
    assert pruner.finalize().zeros == round(0.9 * PRUNABLE)
    for look, state in zip(looks, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in look.module.state_dict().items())


def test_a_function_that_was_compiled_around_a_model_sees_its_masks_come_and_go() -> None:
    model = nn.Linear(20, 8)
    compiled = torch.compile(lambda x: model(x), backend="eager")
    compiled(X)
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=20)
    train(pruner.prepare(), pruner, 10)
    torch.testing.assert_close(compiled(X), model(X))
    pruner.finalize()
    model.weight.data += 1.0
    torch.testing.assert_close(compiled(X), model(X))


@pytest.mark.wide
@pytest.mark.parametrize("compile_it", ["wrapped", "in place"])
def test_a_compiled_model_has_the_names_of_its_file(tmp_path: Any, compile_it: str) -> None:
    model = network()
    compiled = torch.compile(model, backend="eager") if compile_it == "wrapped" else model
    if compile_it == "in place":
        model.compile(backend="eager")
    compiled.eval()(X)  # compiled before the masks are there
    compiled.train()
    pruner = pruner_of(compiled)
    assert pruner.prepare() is compiled
    train(compiled, pruner, 20)
    sparse = pruner.finalize()
    save_checkpoint(sparse, tmp_path / "model.pt")
    again = load_checkpoint(tmp_path / "model.pt", network)
    assert again.zeros == sparse.zeros == round(0.9 * PRUNABLE)
    torch.testing.assert_close(again.module(X), compiled.eval()(X))


def test_a_step_inside_of_a_compiled_function_chooses_what_it_chooses_outside() -> None:
    inputs, labels = Blobs().train.tensors
    masks = []
    for compiled in (False, True):
        model = network().eval()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=6, optimizer=optimizer)
        pruner.prepare()
        step = torch.compile(lambda step=pruner.step: step(), backend="eager") if compiled else pruner.step
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            step()
        masks.append(pruner.finalize().masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_a_model_that_learns_by_its_copies_alone_is_pruned() -> None:
    """As in first-order MAML: gradients are those of a deep copy that took steps of its own."""
    model, (inputs, labels) = network(), Blobs().train.tensors
    pruner, optimizer = pruner_of(model, method="gmp"), torch.optim.Adam(model.parameters(), 1e-2)
    pruner.prepare()
    for _ in range(20):
        learner = deepcopy(model)
        nn.functional.cross_entropy(learner(inputs[:64]), labels[:64]).backward()
        for parameter, own in zip(model.parameters(), learner.parameters(), strict=True):
            parameter.grad = own.grad
        optimizer.step()
        pruner.step()
    sparse = pruner.finalize()
    assert sparse.zeros == zeros(sparse.module) == pruner.report().target_zeros


def test_a_model_that_opacus_wraps_is_pruned_as_the_module_inside() -> None:
    """As its GradSampleModule does: the model is `_module`, and attributes that are not there are the model's."""

    class Private(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._module(x)

    Private.__module__ = "opacus.grad_sample.grad_sample_module"
    net = nn.Linear(8, 8)
    pruner = Pruner(Private(net), sparsity=0.5, epochs=1, steps_per_epoch=1)
    pruner.prepare()
    with pytest.warns(IdpDeployWarning, match="0 of the 1 steps"):
        sparse = pruner.finalize()
    assert sparse.module is net
    assert list(sparse.masks) == ["weight"]


def test_a_pruner_that_is_dropped_looks_at_no_optimizer_any_more() -> None:
    before = len(_global_optimizer_post_hooks)
    model = network()
    pruner = Pruner(model, epochs=4)
    pruner.prepare()
    assert len(_global_optimizer_post_hooks) == before + 1
    del pruner, model
    gc.collect()
    assert len(_global_optimizer_post_hooks) == before


def test_a_pruner_may_go_while_optimizers_are_looked_at() -> None:
    before = len(_global_optimizer_post_hooks)
    kept = [Pruner(network(), epochs=4)]
    kept[0].prepare()

    class Going:
        def tell(self, optimizer: object) -> None:
            kept.clear()
            gc.collect()

    going = Going()
    first, behind = at_each_step(going.tell), []
    last = register_optimizer_step_post_hook(lambda *_: behind.append(1))
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.SGD([weight], lr=0.1).step()
    assert behind
    first.remove()
    last.remove()
    del going
    other = Pruner(network(), epochs=4)
    other.prepare()
    del other
    gc.collect()
    assert len(_global_optimizer_post_hooks) == before
