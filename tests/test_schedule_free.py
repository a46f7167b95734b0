"""Optimizers that train other weights than they evaluate: which of both are measured, saved and shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from idp_deploy.errors import IdpDeployWarning
from idp_deploy.pruning import Pruner, callbacks
from tests.pruning_fixtures import PRUNABLE, Blobs, network, zeros
from tests.test_odd_loops import Answering
from tests.test_pruning_callbacks import Rows

TARGET = round(0.9 * PRUNABLE)
INPUTS, LABELS = Blobs().train.tensors
pytestmark = pytest.mark.filterwarnings("error::idp_deploy.errors.IdpDeployWarning")


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al. 2024, arXiv 2405.15682): z steps, x averages it, y = βx + (1 − β)z trains."""

    def __init__(self, parameters: Iterator[Tensor], lr: float = 0.5, beta: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta, "train_mode": True, "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            assert group["train_mode"], "call train() first"
            group["k"] += 1
            for y in (p for p in group["params"] if p.grad is not None):
                z = self.state[y].setdefault("z", y.clone())
                x = y.lerp(z, 1 - 1 / group["beta"])
                z.sub_(y.grad, alpha=group["lr"])
                y.copy_(x.lerp_(z, 1 / group["k"]).lerp(z, 1 - group["beta"]))

    def train(self) -> None:
        self._exchange(True)

    def eval(self) -> None:
        self._exchange(False)

    @torch.no_grad()
    def _exchange(self, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] != train:
                for p in (p for p in group["params"] if "z" in self.state[p]):
                    p.lerp_(self.state[p]["z"], 1 - (group["beta"] if train else 1 / group["beta"]))
                group["train_mode"] = train


def steps(model: nn.Module, optimizer: ScheduleFree, pruner: Pruner, count: int) -> None:
    optimizer.train()
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
        pruner.step()


def nothing(_: ScheduleFree) -> None:
    pass


def into_eval(optimizer: ScheduleFree) -> None:
    optimizer.eval()


def there_and_back(optimizer: ScheduleFree) -> None:
    optimizer.eval()
    optimizer.train()


@pytest.mark.parametrize("before", [nothing, into_eval])
@pytest.mark.parametrize("inside", [nothing, into_eval, there_and_back])
def test_hardened_looks_at_the_weights_for_evaluation_and_leaves_the_training(
    before: Callable[[ScheduleFree], None], inside: Callable[[ScheduleFree], None]
) -> None:
    def run(look: bool) -> tuple[nn.Module, Tensor | None, Tensor]:
        model = network()
        optimizer = ScheduleFree(model.parameters())
        pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=24, optimizer=optimizer)
        pruner.prepare()
        seen = None
        for _ in range(3):
            steps(model, optimizer, pruner, 8)
            if look:
                before(optimizer)
                with pruner.hardened():
                    inside(optimizer)
                    seen = model.eval()(INPUTS).detach()
                model.train()
        sparse = pruner.finalize()
        assert sparse.zeros == TARGET == zeros(model)
        return model, seen, sparse.module.eval()(INPUTS)

    plain, _, _ = run(False)
    model, seen, shipped = run(True)
    assert seen is not None
    if inside is not there_and_back:  # else these are the weights that train
        torch.testing.assert_close(seen, shipped)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("best", [False, True])
def test_the_trainer_measures_hardened_averages(best: bool, tmp_path: Path) -> None:
    pruning, model = callbacks.TrainerPruning(sparsity=0.9), Answering()
    seen: list[int] = []

    def metrics(_: Any) -> dict[str, float]:
        seen.append(zeros(model.net))
        return {"zeros": seen[-1]}

    settings: dict[str, Any] = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "eval_strategy": "epoch"}
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": "zeros"} if best else {}
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=3, save_strategy="epoch" if best else "no", **settings, **chosen
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Rows(),
        eval_dataset=Rows(),
        callbacks=[pruning],
        compute_metrics=metrics,
        optimizers=(ScheduleFree(model.parameters()), None),  # type: ignore[arg-type]
    )
    trainer.train()
    assert pruning.sparse is not None
    assert seen[-1] == TARGET == pruning.sparse.zeros
    trainer.evaluate()
    assert seen[-1] == TARGET == pruning.sparse.zeros


def test_weights_for_evaluation_that_were_loaded_in_train_mode_are_told_of() -> None:
    model = network()
    optimizer = ScheduleFree(model.parameters())
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=8, optimizer=optimizer)
    pruner.prepare()
    steps(model, optimizer, pruner, 8)
    with torch.no_grad():
        model[0].weight.add_(0.1)  # as a best checkpoint that is loaded
    with pytest.warns(IdpDeployWarning, match="written to"), pytest.warns(IdpDeployWarning, match="in its train mode"):
        assert pruner.finalize().zeros == TARGET
