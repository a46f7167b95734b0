"""prune and harden: the training loop that is built on the pruner."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from idp_deploy.errors import DivergedError, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.hardening import harden
from idp_deploy.pruning import Progress, Pruner, one_shot, prune
from idp_deploy.tasks import Task, evaluate
from tests.pruning_fixtures import PRUNABLE, Blobs, network, same, trained, zeros


@pytest.fixture(scope="module")
def dense() -> Model:
    return trained()


def test_prune_and_harden_end_to_end(dense: Model) -> None:
    task, seen = Blobs(), list[Progress]()
    before = deepcopy(dense.module)
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    masked = prune(dense, task, Recipe(sparsity=0.9, epochs=5), progress=seen.append)
    sparse = harden(masked, task)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
    assert same(before, dense.module)
    assert not dense.module.training
    assert sparse.zeros == zeros(sparse.module) == round(0.9 * PRUNABLE)
    assert evaluate(sparse.module, task) > evaluate(before, task) - 0.05
    epochs = [p for p in seen if p.hard is not None]
    assert len(epochs) == 5
    assert seen[0].step == 1
    assert epochs[-1].hard == pytest.approx(evaluate(masked.module, task))
    assert [p.phase for p in epochs] == ["ramp", "ramp", "ramp", "frozen", "frozen"]
    assert all(not m._forward_pre_hooks for m in masked.module.modules())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(dense: Model) -> None:
    task = Blobs()
    one, two, other = (prune(dense, task, Recipe(sparsity=0.9, epochs=2, seed=seed)) for seed in (1, 1, 2))
    assert same(one.module, two.module)
    assert not same(one.module, other.module)


def test_one_shot_needs_no_data(dense: Model) -> None:
    sparse = one_shot(dense, Recipe(sparsity=0.6))
    assert zeros(sparse.module) == round(0.6 * PRUNABLE)
    assert zeros(dense.module) == 0
    assert sparse.recipe is not None
    assert sparse.recipe.method == "magnitude"


def test_a_loss_that_explodes_is_reported(dense: Model) -> None:
    with pytest.raises(DivergedError, match="the loss became"):
        prune(dense, Blobs(), Recipe(epochs=1, options={"learning_rate": 1e30}))


def test_a_loss_beyond_a_thousand_times_its_start_stops_the_run(dense: Model, tmp_path: Path) -> None:
    class Late(Blobs):
        """A loss that runs away in the third of its epochs."""

        calls = 0

        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            value = super().loss(outputs, batch)
            if self.module_trains(outputs):
                self.calls += 1
            return value * (1e6 if self.calls > 2 * len(self.train_loader(0)) + 1 else 1)

        def module_trains(self, outputs: torch.Tensor) -> bool:
            return outputs.requires_grad

    with pytest.raises(
        DivergedError, match=r"in epoch [23], from .* at first; the state after epoch [12] is kept"
    ) as stop:
        prune(dense, Late(), Recipe(epochs=4), checkpoint_dir=tmp_path)
    assert stop.value.exit_code == 1
    saved = torch.load(tmp_path / "training_state.pt", weights_only=True)
    assert saved["epochs_done"] in (1, 2)
    assert all(bool(torch.isfinite(value).all()) for value in saved["module"].values())
    assert saved["threads"] == torch.get_num_threads()


def test_distillation_follows_the_dense_model(dense: Model) -> None:
    class Unlabelled(Blobs):
        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            return outputs.sum() * 0

    masked = prune(dense, Unlabelled(), Recipe(sparsity=0.8, epochs=4, options={"distill": 0.95}))
    assert evaluate(harden(masked).module, Blobs()) > evaluate(dense.module, Blobs()) - 0.1


class Named(nn.Module):
    """Logits in a dict, as many language models return them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(x), "hidden": x}


class NamedBlobs(Blobs):
    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        return super().loss(outputs["logits"], batch)

    def score(self, outputs: Any, batch: Any) -> tuple[float, int]:
        return super().score(outputs["logits"], batch)


def test_distillation_finds_the_logits_of_a_dict(dense: Model) -> None:
    options = {"distill": 0.5}
    named = prune(Model(Named(deepcopy(dense.module))), NamedBlobs(), Recipe(epochs=1, options=options))
    plain = prune(dense, Blobs(), Recipe(epochs=1, options=options))
    assert same(named.module.inner, plain.module)


def test_distillation_without_logits_is_refused(dense: Model) -> None:
    class Pair(Blobs):
        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            return super().loss(outputs[0], batch)

    class Two(nn.Sequential):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(x), x

    with pytest.raises(UsageError, match="the model returns a tuple without any"):
        prune(Model(Two(*deepcopy(dense.module))), Pair(), Recipe(epochs=1, options={"distill": 0.5}))


def test_the_learning_rate_asked_for_is_the_peak_of_the_tasks_own_optimizer(dense: Model) -> None:
    class Adamic(Blobs):
        def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
            first, *rest = module.parameters()
            self.made = torch.optim.AdamW([{"params": [first], "lr": 1e-4}, {"params": rest}], lr=1e-3)
            return self.made

    task = Adamic()
    prune(dense, task, Recipe(epochs=1, options={"learning_rate": 0.02}))
    assert [group["initial_lr"] for group in task.made.param_groups] == pytest.approx([0.002, 0.02])


def test_an_untrained_model_learns_before_it_is_pruned() -> None:
    fresh, trained, told = network(), network(), network()
    for model in (trained, told):
        model.train()(torch.randn(8, 20))
        model[1].num_batches_tracked.zero_()  # as converted checkpoints have it
    starts = [
        Pruner(model, sparsity=0.5, epochs=100, **options).schedule.dense_until
        for model, options in ((fresh, {}), (trained, {}), (told, {"dense": 0.1}))
    ]
    assert starts == [20, 0, 10]
    assert Pruner(fresh, sparsity=0.5, epochs=100, method="rigl").schedule.dense_until == 0


ADAM = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])


@pytest.mark.wide
@pytest.mark.parametrize(
    ("optimizer", "settings", "kappa", "clip"),
    [
        (None, {}, 10, True),
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))]), {}, 10, True),
        (ADAM, {}, 100, True),
        (ADAM, {"kappa": 30}, 30, True),
        (ADAM, {"pattern": "2:4"}, 100, True),
        (None, {"mode": "paper"}, 10, False),
    ],
)
def test_the_mask_is_nearly_hard_where_the_optimizer_adapts(
    optimizer: object, settings: dict[str, Any], kappa: float, clip: bool
) -> None:
    pruner = Pruner(network(), sparsity=0.5, epochs=10, optimizer=optimizer, **settings)
    assert (pruner.method.settings["kappa"], pruner.method.settings["clip"]) == (kappa, clip)


def test_an_optimizer_that_accelerate_wraps_is_looked_into() -> None:
    pruner = Pruner(network(), sparsity=0.9, epochs=10, optimizer=Accelerator(cpu=True).prepare(ADAM))
    assert pruner.method.settings["kappa"] == 100


def test_prune_tells_the_pruner_of_its_optimizer() -> None:
    start = trained()

    class Adaptive(Blobs):
        def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(module.parameters(), 1e-2)

    def pruned(task: Task, **options: Any) -> nn.Module:
        return prune(start, task, Recipe(sparsity=0.9, epochs=3, options=options)).module

    assert same(pruned(Adaptive()), pruned(Adaptive(), kappa=100, floor_end=1, rows=True))
    assert not same(pruned(Adaptive()), pruned(Adaptive(), kappa=10))
    assert same(pruned(Blobs()), pruned(Blobs(), clip=True))


def test_a_weight_without_entries_is_not_for_pruning() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 0))
    sparse = one_shot(Model(module), Recipe(sparsity=0.5))
    assert set(sparse.masks) == {"0.weight"}
    assert zeros(sparse.module) == 16
