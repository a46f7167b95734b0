"""A model's state and its pruner's, loaded in any order; and states that do not belong together."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from idp_deploy.errors import IdpDeployWarning
from idp_deploy.pruning import Pruner
from tests.pruning_fixtures import RECIPES, Blobs, network

INPUTS, LABELS = Blobs().train.tensors
Run = tuple[nn.Module, torch.optim.Optimizer, Pruner]


def begin(method: str = "idp", seed: int = 0) -> Run:
    model = network(seed).eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pattern, sparsity = RECIPES[method]
    settings: dict[str, Any] = {"sparsity": sparsity, "pattern": pattern, "method": method, "loss": lambda: loss(model)}
    settings["example_inputs"] = (INPUTS[:4],)
    return model, optimizer, Pruner(model, epochs=1, steps_per_epoch=20, optimizer=optimizer, **settings)


def loss(model: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(model(INPUTS), LABELS)


def train(run: Run, steps: int) -> None:
    model, optimizer, pruner = run
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        pruner.step()


def saved(method: str, after: int, *, hard: bool) -> list[Any]:
    run = begin(method)
    run[2].prepare()
    train(run, after)
    with run[2].hardened() if hard else nullcontext():
        return deepcopy([one.state_dict() for one in run])


def resumed(states: list[Any], order: str, method: str, seed: int = 0) -> Run:
    run = begin(method, seed)
    for letter in order:
        if letter == "!":
            run[2].prepare()
        else:
            index = "mop".index(letter)
            run[index].load_state_dict(deepcopy(states[index]))  # buffers are shared
    return run


ORDERS = ["pmo!", "!mop", "!pom", "p!mo", "po!m"]
MOMENTS = [(True, 9), (False, 9), (True, 18)]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("method", "order", "hard", "after"),
    [(method, "p!mo", True, 9) for method in RECIPES] + [("idp", o, *moment) for o in ORDERS for moment in MOMENTS],
)
@pytest.mark.filterwarnings("error::idp_deploy.errors.IdpDeployWarning")
def test_states_resume_to_the_same_bytes_in_any_order(method: str, order: str, hard: bool, after: int) -> None:
    states = saved(method, after, hard=hard)
    first, other = (resumed(states, how, method, seed) for how, seed in (("mop!", 0), (order, 5)))
    for run in (first, other):
        train(run, 20 - after)
    kept, same = first[2].finalize(), other[2].finalize()
    assert kept.zeros == same.zeros
    for name, value in kept.module.state_dict().items():
        assert torch.equal(value, same.module.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore:the model's weights were written to")
@pytest.mark.parametrize("after", [9, 20])
@pytest.mark.parametrize("order", ["p!", "m!p", "p!m"])
def test_a_state_without_the_models_own_is_told_of(after: int, order: str) -> None:
    states = saved("idp", after, hard=True)
    states[0] = network(3).state_dict()  # the model's, of another run
    run = resumed(states, order, "idp")
    dense_came_along = after == 9 and order != "p!m"
    said = r"5 of 8 differ, '0\.bias' first" if dense_came_along else r"8 of 8 differ, '0\.weight' first"
    with pytest.warns(IdpDeployWarning, match=f"those beside which the loaded state of the pruner was saved: {said}"):
        run[2].finalize() if after == 20 else train(run, 1)


def test_a_part_of_the_models_state_is_told_of_by_what_was_forgotten() -> None:
    states = saved("idp", 9, hard=False)
    whole, run = states[0], begin(seed=5)
    run[0].load_state_dict({name: whole[name] for name in whole if not name.startswith("1.")}, strict=False)
    run[2].load_state_dict(states[2])
    run[2].prepare()
    with pytest.warns(IdpDeployWarning, match=r"2 of 8 differ, '1\.weight' first"):
        train(run, 1)


@pytest.mark.filterwarnings("error::idp_deploy.errors.IdpDeployWarning")
def test_a_state_that_went_through_half_precision_belongs_to_its_pruner() -> None:
    states = saved("idp", 9, hard=False)
    states[0] = {name: v.bfloat16().float() if v.is_floating_point() else v for name, v in states[0].items()}
    run = resumed(states, "mop!", "idp")
    train(run, 11)


def test_a_model_that_is_copied_between_the_two_states_is_plain() -> None:
    states = saved("idp", 9, hard=True)
    run = resumed(states, "p!", "idp")
    twin = deepcopy(run[0])
    twin.load_state_dict(states[0])
    assert all(torch.equal(value, states[0][name]) for name, value in twin.state_dict().items())


@pytest.mark.filterwarnings("error::idp_deploy.errors.IdpDeployWarning")
def test_weights_that_were_measured_with_hard_masks_end_without_a_word() -> None:
    run = begin()
    model, _, pruner = run
    pruner.prepare()
    train(run, 20)
    with torch.no_grad():  # as a schedule-free optimizer does in eval()
        for parameter in model.parameters():
            parameter.mul_(0.99).add_(0.001)
    with pruner.hardened():
        before = loss(model)
    assert torch.equal(before, loss(pruner.finalize().module))
