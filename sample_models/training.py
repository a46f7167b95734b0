"""Training a sample model from nothing: SGD with momentum, a one-cycle learning rate, everything seeded."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from idp_deploy.tasks import Task, evaluate

Progress = Callable[[int, float, float], None]  # epoch from 1, mean training loss, validation metric


def train(
    module: nn.Module,
    task: Task,
    *,
    epochs: int | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """A trained copy of `module` in eval mode; the argument and torch's random state stay as they were.

    The learning rate rises over the first fifth of the steps and falls to zero along a cosine. The validation metric
    is computed after an epoch only where `progress` asks for it.

    Args:
        epochs: passes over the training data; the task's own number by default.
        seed: of the batch order and of dropout.
        learning_rate: the peak; by default the optimizer's own, if the task brings one, or the task's, or 0.05.
    """
    epochs = epochs or task.epochs
    module = deepcopy(module).train()
    optimizer = task.optimizer(module)
    if optimizer is None:
        rate = learning_rate or task.learning_rate or 0.05
        optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loader = task.train_loader(seed)
        peak = learning_rate or optimizer.param_groups[0]["lr"]
        schedule = OneCycleLR(
            optimizer, peak, total_steps=epochs * len(loader) + 1, pct_start=0.2, cycle_momentum=False
        )
        for epoch in range(1, epochs + 1):
            module.train()
            total = 0.0
            for batch in loader:
                optimizer.zero_grad()
                loss = task.loss(module(*task.inputs(batch)), batch)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
            if progress is not None:
                progress(epoch, total / len(loader), evaluate(module, task))
    return module.eval()
