"""harden: exact zeros, and batch norm measured again only where that helps."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.flow import MaskedModel, Model, Recipe, SoftMask
from idp_deploy.hardening import harden, recalibrate_batch_norm
from idp_deploy.pruning import prune
from idp_deploy.tasks import evaluate
from tests.pruning_fixtures import PRUNABLE, RECIPES, Blobs, same, trained, zeros


@pytest.fixture(scope="module")
def dense() -> Model:
    return trained()


@pytest.mark.wide
@pytest.mark.parametrize("method", RECIPES)
def test_hardening_a_frozen_model_changes_nothing(dense: Model, method: str) -> None:
    pattern, sparsity = RECIPES[method]
    recipe = Recipe(sparsity=sparsity, epochs=4, method=method, pattern=pattern)
    masked = prune(dense, Blobs(), recipe)
    assert same(masked.module, harden(masked).module)


def test_hardening_a_soft_model_is_exact_and_leaves_it_soft(dense: Model) -> None:
    masked = prune(dense, Blobs(), Recipe(sparsity=0.9, epochs=4, options={"finish": 0.0}))
    assert zeros(masked.module) == 0
    sparse = harden(masked)
    assert zeros(masked.module) == 0
    assert zeros(sparse.module) == round(0.9 * PRUNABLE)
    soft = masked.soft_masks["4.weight"]
    assert soft.threshold > 0
    assert soft.temperature == pytest.approx(soft.threshold**2 / 10, rel=1e-5)


def test_hardening_refuses_a_mask_of_another_model(dense: Model) -> None:
    masked = prune(dense, Blobs(), Recipe(sparsity=0.9, epochs=1))
    with pytest.raises(UsageError, match=r"there is a mask for '0\.weight'"):
        harden(MaskedModel(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), masked.soft_masks, masked.recipe))


def test_hardening_follows_each_weights_own_pattern() -> None:
    module = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))
    masks = {"0.weight": SoftMask(0.1, 1e-3, 288, "2:4"), "1.weight": SoftMask(0.1, 1e-3, 32, "block:1x4")}
    sparse = harden(MaskedModel(module, masks, Recipe()))
    assert (sparse.masks["0.weight"].unflatten(1, (2, 4)).sum(2) == 2).all()
    blocks = sparse.masks["1.weight"].reshape(16, 4)
    assert torch.equal(blocks.any(1), blocks.all(1))
    assert int(blocks.any(1).sum()) == 8


def test_non_finite_weights_are_refused_by_name(dense: Model) -> None:
    module = deepcopy(dense.module)
    with torch.no_grad():
        module[4].weight[0, 0] = torch.nan
    with pytest.raises(UsageError, match=r"'4\.weight' holds NaN"):
        harden(MaskedModel(module, {"4.weight": SoftMask(0.1, 0.1, 3)}, Recipe()))


def test_wrong_statistics_are_measured_again_and_good_ones_survive(dense: Model) -> None:
    task, module = Blobs(), deepcopy(dense.module)
    module[1].running_mean.add_(5)
    broken, state = evaluate(module, task), torch.get_rng_state()
    assert recalibrate_batch_norm(module, task)
    assert torch.equal(state, torch.get_rng_state())
    assert evaluate(module, task) > broken + 0.1
    assert not module.training
    assert module[1].momentum == 0.1


def test_statistics_that_make_it_worse_are_not_kept(dense: Model) -> None:
    class Shifted(Blobs):
        """Its training score prefers the statistics the model has."""

        def score(self, outputs: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> tuple[float, int]:
            return float(torch.equal(module[1].running_mean, before)), 1

    module = deepcopy(dense.module)
    before = module[1].running_mean.clone()
    assert not recalibrate_batch_norm(module, Shifted())
    assert same(module, dense.module)


def test_a_model_without_batch_norm_is_left_alone() -> None:
    assert not recalibrate_batch_norm(nn.Linear(20, 8), Blobs())
