"""A state that goes on with another batch size or another number of epochs: what is left of the plan is stretched."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from torch import nn

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.flow import Recipe
from idp_deploy.pruning import Progress, Pruner, prune
from tests.pruning_fixtures import PRUNABLE, Blobs, network, train, trained

TARGET = round(0.9 * PRUNABLE)
# epochs and steps an epoch of a run that has done three epochs of 6 x 8 → steps to come
PLANS = {(6, 4): 12, (6, 16): 48, (9, 8): 48, (4, 8): 8, (12, 4): 36, (6, 8): 24}


def pruner_of(model: nn.Module, plan: tuple[int, int], **settings: object) -> Pruner:
    return Pruner(model, sparsity=0.9, epochs=plan[0], steps_per_epoch=plan[1], **settings)  # type: ignore[arg-type]


def interrupted(**settings: object) -> tuple[nn.Module, Pruner]:
    model = network()
    pruner = pruner_of(model, (6, 8), **settings)
    train(pruner.prepare(), pruner, 24)
    return model, pruner


@pytest.mark.parametrize("mode", ["auto", "paper"])
@pytest.mark.parametrize("plan", PLANS)
def test_the_rest_of_the_plan_is_stretched_over_what_is_to_come(plan: tuple[int, int], mode: str) -> None:
    model, pruner = interrupted(mode=mode)
    before, left = pruner.report().zeros, PLANS[plan]
    again = network()
    again.load_state_dict(model.state_dict())
    other = pruner_of(again, plan, mode=mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other.load_state_dict(pruner.state_dict())
    told = [str(w.message) for w in caught]
    assert len(told) == (left != 24)
    assert not told or f"stretched over {left} steps to come, in place of 24" in told[0]
    assert other.plan.total == 24 + left
    at = [other.schedule.ratio(step) for step in range(24, 25 + left)]
    assert at == sorted(at)
    assert at[-1] == 1.0
    assert pruner.schedule.ratio(23) <= at[0] < pruner.schedule.ratio(24) + 0.05
    frozen = [sum(p.schedule.phase(step) == "frozen" for step in range(24, p.plan.total)) for p in (pruner, other)]
    assert abs(frozen[1] / left - frozen[0] / 24) < 0.1
    train(other.prepare(), other, left - 1)
    assert other.report().zeros >= before
    train(again, other, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert other.finalize(on_unfinished="raise").zeros == TARGET


def test_a_stretched_run_is_interrupted_and_goes_on_as_it_was_stretched() -> None:
    model, pruner = interrupted()
    second = pruner_of(again := network(), (6, 16))
    again.load_state_dict(model.state_dict())
    with pytest.warns(IdpDeployWarning, match="stretched over 48"):
        second.load_state_dict(pruner.state_dict())
    train(second.prepare(), second, 16)  # four of six epochs
    third, fourth = pruner_of(network(), (6, 16)), pruner_of(network(), (6, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third.load_state_dict(second.state_dict())
    assert third.schedule == second.schedule
    with pytest.warns(IdpDeployWarning, match="stretched over 16 steps to come, in place of 32"):
        fourth.load_state_dict(second.state_dict())


def test_steps_to_come_can_be_said_and_none_are_refused() -> None:
    _, pruner = interrupted()
    other = pruner_of(network(), (3, 8))  # the three that are left, as one may think
    with pytest.raises(UsageError, match=r"48 steps \(6 epochs\), of which 24 were taken, and 24 in 3 epochs leave no"):
        other.load_state_dict(pruner.state_dict())
    assert not other.steps
    other.load_state_dict(pruner.state_dict(), left=24)
    assert (other.steps, other.plan.total, other.schedule) == (24, 48, pruner.schedule)


def test_a_finished_run_goes_on_frozen() -> None:
    model, pruner = interrupted()
    train(model, pruner, 24)
    other = pruner_of(network(), (8, 8))
    with pytest.warns(IdpDeployWarning, match="stretched over 16 steps to come, in place of 0"):
        other.load_state_dict(pruner.state_dict())
    assert other.plan.total == 64
    assert {other.schedule.phase(step) for step in range(48, 64)} == {"frozen"}


def test_a_state_of_an_earlier_version_is_taken_for_one_of_as_many_epochs() -> None:
    _, pruner = interrupted()
    state = pruner.state_dict()
    del state["pace"]
    other = pruner_of(network(), (6, 4))
    with pytest.warns(IdpDeployWarning, match="stretched over 12"):
        other.load_state_dict(state)


def test_prune_refuses_another_batch_size(tmp_path: Path) -> None:
    """Its rate would jump, and no bytes would be those of an uninterrupted run."""

    class StopError(Exception): ...

    def stop(progress: Progress) -> None:
        if progress.step == 9:
            raise StopError

    model, recipe = trained(), Recipe(sparsity=0.9, epochs=2)
    with pytest.raises(StopError):
        prune(model, Blobs(), recipe, progress=stop, checkpoint_dir=tmp_path)
    with pytest.raises(UsageError, match=r"had 8 steps an epoch, .* this one has 4"):
        prune(model, Blobs(256), recipe, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(UsageError, match="had epochs = 2, this one has 3"):
        prune(model, Blobs(), Recipe(sparsity=0.9, epochs=3), checkpoint_dir=tmp_path, resume=True)
