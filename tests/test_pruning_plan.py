"""Steps planned and steps taken: what differs is said with both numbers, and a choice is left at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.masks.soft import CHUNK
from idp_deploy.pruning import METHODS, Pruner
from tests.pruning_fixtures import PRUNABLE, Blobs, network, pruner_of, train, zeros

INPUTS, LABELS = Blobs().train.tensors


class Loop:
    """A plain loop that may accumulate gradients, skip steps and tell the pruner of its optimizer, or not."""

    def __init__(self, *, epochs: int = 6, planned: int = 8, told: bool = True, **settings: Any) -> None:
        self.model = network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        known = {"optimizer": self.optimizer} if told else {}
        self.pruner = Pruner(self.model, sparsity=0.9, epochs=epochs, steps_per_epoch=planned, **known, **settings)
        self.pruner.prepare()

    def loss(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(INPUTS), LABELS)

    def run(
        self, batches: int, *, accumulate: int = 1, every_batch: bool = False, skip: Callable[[int], bool] = bool
    ) -> None:
        for batch in range(1, batches + 1):
            (self.loss() / accumulate).backward()
            if batch % accumulate == 0:
                if not skip(0):
                    self.optimizer.step()
                self.optimizer.zero_grad()
            if every_batch or batch % accumulate == 0:
                self.pruner.step()


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, IdpDeployWarning)]


@pytest.mark.parametrize("told", [True, False])
def test_a_plan_that_is_met_says_nothing(told: bool) -> None:
    loop = Loop(told=told)
    assert not said(lambda: loop.run(48))
    assert not said(loop.pruner.finalize)


def test_an_early_stop_is_told_with_both_numbers_and_the_zeros_that_go_untrained() -> None:
    loop = Loop()
    loop.run(10)
    (text,) = said(loop.pruner.finalize)
    assert "training took 10 of the 48 steps planned and ended at" in text
    assert "of 2,477 zeros" in text
    assert zeros(loop.model) == round(0.9 * PRUNABLE)


def test_a_stop_in_the_frozen_finish_is_told_as_that() -> None:
    loop = Loop()
    loop.run(44)
    (text,) = said(loop.pruner.finalize)
    assert "took 44 of the 48 steps planned: all 2,477 zeros were there, the frozen finish was cut short" in text


def test_batches_planned_and_accumulated_steps_taken_differ() -> None:
    loop = Loop()
    loop.run(48, accumulate=4)
    (text,) = said(loop.pruner.finalize)
    assert "12 of the 48 steps" in text
    assert "len(loader) / accumulation" in text


@pytest.mark.parametrize("told", [True, False])
def test_calls_while_gradients_accumulate_do_not_count_and_are_told(told: bool) -> None:
    loop = Loop(planned=2, told=told)
    (text,) = said(lambda: loop.run(48, accumulate=4, every_batch=True))
    assert "the optimizer has taken no step since the last call" in text
    assert loop.pruner.steps == 12
    (text,) = said(loop.pruner.finalize)
    assert "step() was called 48 times and the optimizer took 12 of them (12 planned)" in text


@pytest.mark.filterwarnings("ignore:step\\(\\) was called though the optimizer has taken no step")
@pytest.mark.parametrize("told", [True, False])
def test_steps_that_a_scaler_skips_do_not_count(told: bool) -> None:
    loop = Loop(told=told)
    loop.run(2)
    loop.run(2, skip=lambda _: True)
    loop.run(44)
    assert loop.pruner.steps == 46
    (text,) = said(loop.pruner.finalize)
    assert "46 of the 48 steps planned (2 more calls of step() came without an optimizer step)" in text


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("fused", [True, False])  # a fused optimizer is called by the scaler, and skips by itself
def test_a_scaler_that_skips_every_step_is_told_of_on_the_way(fused: bool, told: bool) -> None:
    loop = Loop(told=False)
    optimizer, scaler = torch.optim.Adam(loop.model.parameters(), fused=fused), torch.amp.GradScaler("cpu")
    loop.pruner.detach()
    loop.pruner = Pruner(
        loop.model, sparsity=0.9, epochs=6, steps_per_epoch=8, **({"optimizer": optimizer} if told else {})
    )
    loop.pruner.prepare()

    def step(scale: float) -> None:
        scaler.scale(loop.loss() * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loop.pruner.step()

    assert not said(lambda: [step(torch.inf) for _ in range(16)])
    (text,) = said(lambda: step(torch.inf))
    assert "step() was called 17 times and the weights have not changed" in text
    assert "GradScaler skips every step" in text
    (text,) = said(lambda: step(1.0))
    assert "such calls do not count" in text
    assert loop.pruner.steps == 1
    step(torch.inf)
    assert loop.pruner.steps == 1


@pytest.mark.parametrize("told", [True, False])
def test_steps_without_gradients_are_told_on_the_way_and_at_the_end(told: bool) -> None:
    loop = Loop(epochs=1, planned=20, told=told)
    loop.model.requires_grad_(False)

    def run() -> None:
        for _ in range(20):
            loop.optimizer.step()
            loop.pruner.step()

    (text,) = said(run)
    assert "called 11 times and the weights have not changed" in text
    with pytest.raises(UsageError, match=r"called 20 times, and before none of these calls the weights had changed"):
        loop.pruner.finalize(on_unfinished="raise")


def test_more_epochs_than_planned_are_told_at_the_first_step_beyond() -> None:
    loop = Loop()
    assert not said(lambda: loop.run(48))
    (text,) = said(lambda: loop.run(3))
    assert "this is step 49 of 48 planned steps" in text
    assert not said(loop.pruner.finalize)


def test_several_optimizer_steps_a_call_are_told() -> None:
    loop = Loop()
    for _ in range(4):
        loop.loss().backward()
        loop.optimizer.step()
    (text,) = said(loop.pruner.step)
    assert "the optimizer has taken 4 steps since the last step()" in text


def test_finalize_without_a_step_says_so() -> None:
    loop = Loop()
    (text,) = said(loop.pruner.finalize)
    assert "training took 0 of the 48 steps planned and ended at" in text
    assert zeros(loop.model) == round(0.9 * PRUNABLE)


def test_raise_leaves_the_run_as_it_is() -> None:
    loop = Loop()
    loop.run(10)
    with pytest.raises(UsageError, match="training took 10 of the 48 steps planned"):
        loop.pruner.finalize(on_unfinished="raise")
    assert zeros(loop.model) == 0
    loop.run(38)
    assert not said(lambda: loop.pruner.finalize(on_unfinished="raise"))
    assert zeros(loop.model) == round(0.9 * PRUNABLE)
    with pytest.raises(UsageError, match="on_unfinished is 'stop'"):
        loop.pruner.finalize(on_unfinished="stop")  # type: ignore[arg-type]


def test_finish_trains_the_missing_steps() -> None:
    model = network()
    loss = lambda: nn.functional.cross_entropy(model(INPUTS), LABELS)  # noqa: E731
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruner = Pruner(model, sparsity=0.9, epochs=48, steps_per_epoch=1, optimizer=optimizer, loss=loss)
    pruner.prepare()
    for _ in range(10):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    assert not said(lambda: pruner.finalize(on_unfinished="finish"))
    assert pruner.steps == 48
    assert zeros(model) == round(0.9 * PRUNABLE)
    unable = Loop()
    assert "0 of the 48" in said(lambda: unable.pruner.finalize(on_unfinished="finish"))[0]


def test_inside_hardened_neither_steps_nor_finalizes() -> None:
    loop = Loop()
    loop.run(10)
    with loop.pruner.hardened():
        with pytest.raises(UsageError, match=r"finalize\(\) inside hardened"):
            loop.pruner.finalize()
        with pytest.raises(UsageError, match=r"step\(\) inside hardened"):
            loop.pruner.step()
    assert zeros(loop.model) == 0


def test_an_optimizer_that_keeps_other_weights_for_evaluation_is_in_its_eval_mode_at_the_end() -> None:
    loop = Loop(epochs=1)
    (group,) = loop.optimizer.param_groups
    group["train_mode"] = True  # as schedule-free optimizers say it
    loop.run(8)
    with pytest.raises(UsageError, match=r"in its train mode .*: its eval"):
        loop.pruner.finalize(on_unfinished="raise")
    group["train_mode"] = False
    assert loop.pruner.finalize(on_unfinished="raise").zeros == round(0.9 * PRUNABLE)


@pytest.mark.parametrize("told", [True, False])
def test_step_may_be_a_hook_of_the_optimizer(told: bool) -> None:
    """The way into loops that belong to somebody else; an optimizer's own hooks run ahead of those of all."""
    loop = Loop(told=told)
    loop.optimizer.register_step_post_hook(lambda *_: loop.pruner.step())

    def run() -> None:
        for _ in range(48):
            loop.optimizer.zero_grad()
            loop.loss().backward()
            loop.optimizer.step()

    assert not said(run)
    assert loop.pruner.steps == 48
    assert not said(loop.pruner.finalize)


@pytest.mark.filterwarnings("ignore:step.. was called though")
@pytest.mark.parametrize("anew", [False, True])
def test_an_optimizer_whose_parameters_were_exchanged_is_told_of(anew: bool) -> None:
    """The calls were said to come without a step, and not why."""
    loop = Loop(epochs=2)
    loop.run(4)
    loop.model.load_state_dict({name: value.clone() for name, value in loop.model.state_dict().items()}, assign=True)
    if anew:
        loop.optimizer = torch.optim.SGD(loop.model.parameters(), 0.1)
    told = said(lambda: loop.run(4))
    assert [("assign=True" in text) for text in told] == ([] if anew else [True, False])
    assert loop.pruner.steps == (8 if anew else 4)


@pytest.mark.filterwarnings("ignore:.*:idp_deploy.errors.IdpDeployWarning")
@pytest.mark.parametrize("method", METHODS)
def test_step_may_stand_between_forward_and_backward(method: str) -> None:
    """Autograd refused what step() had written meanwhile, with most methods."""
    torch.manual_seed(0)
    pruner = pruner_of(model := network(), 12, method)
    pruner.prepare()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def loop() -> None:
        for _ in range(12):
            loss = nn.functional.cross_entropy(model(INPUTS), LABELS)
            pruner.step()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert any("masks follow one step late" in text for text in said(loop))
    sparse = pruner.finalize()
    assert sparse.zeros == sum(int((model.get_parameter(name) == 0).sum()) for name in sparse.masks)
    assert pruner.steps == 11


@pytest.mark.filterwarnings("ignore:step.. was called though")
def test_gradients_stay_finite_where_masks_become_hard_ahead_of_backward() -> None:
    """Of a weight that is worked on in pieces the derivative divides by entries that are zero by then."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 4 * CHUNK // 20, bias=False))
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=10)
    pruner.prepare()
    for step in range(9):
        loss = model(INPUTS[:4]).square().sum()
        pruner.step()
        loss.backward()
        gradient = model[0].weight.grad
        assert gradient is not None
        assert gradient.abs().max() < 1e4, step
        with torch.no_grad():
            model[0].weight.sub_(gradient, alpha=1e-4)
        model.zero_grad()
    assert pruner.report().phase == "frozen"


@pytest.mark.filterwarnings("ignore:step.. was called though")
def test_what_step_writes_is_noticed_where_somebody_else_writes_it() -> None:
    """Autograd's own refusal stays: a weight that the loop changes ahead of backward() is the loop's mistake."""
    pruner = pruner_of(model := network(), 12)
    pruner.prepare()
    train(model, pruner, 4)
    loss = model(INPUTS).sum()
    pruner.step()
    with torch.no_grad():
        model[4].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
