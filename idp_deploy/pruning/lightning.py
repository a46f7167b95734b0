"""What a trainer of Lightning plans, and which of its scores are to count."""

from __future__ import annotations

import math
from typing import Any

import torch


def steps_ahead(trainer: Any) -> float:
    """Optimizer steps of the whole training, also where gradients accumulate over more batches from some epoch on."""
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    steps: float = trainer.estimated_stepping_batches
    found = next((c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)), None)
    batches, epochs = trainer.num_training_batches, trainer.max_epochs or -1
    if found is None or epochs < 1 or batches == math.inf:
        return steps
    total = sum(math.ceil(batches / found.get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return min(total, trainer.max_steps) if (trainer.max_steps or -1) > 0 else total


def without_what_was_taken(trainer: Any, steps: float, epochs: int | None) -> tuple[float, int | None]:
    """Steps and epochs that are still to come, of all that the trainer speaks of."""
    done = trainer.current_epoch if epochs and trainer.current_epoch < epochs else 0
    by_itself = trainer.lightning_module.automatic_optimization  # else steps of all optimizers are counted together
    left = steps - trainer.global_step if by_itself else steps * (1 - done / (epochs or 1))
    return (left, epochs - done if epochs else epochs) if left > 0 else (steps, epochs)


def trained_epochs(trainer: Any) -> float:
    """The epochs in which weights train: an average with batch norms gets one more, to measure these."""
    found = (c for c in trainer.callbacks if type(c).__name__ == "StochasticWeightAveraging")
    return min((getattr(callback, "_max_epochs", math.inf) for callback in found), default=math.inf)


def forget_stops(trainer: Any) -> None:
    """For early stops the next score is the first."""
    from lightning.pytorch.callbacks import EarlyStopping

    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping):
            worst = math.inf if callback.monitor_op == torch.lt else -math.inf
            callback.best_score, callback.wait_count = torch.tensor(worst), 0


def forget_scores(trainer: Any) -> None:
    """Scores of fewer zeros than were asked for are the worst there are, for best checkpoints and for early stops."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    forget_stops(trainer)
    for callback in trainer.callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_k_models:
            score = torch.tensor(math.inf if callback.mode == "min" else -math.inf)
            callback.best_k_models = dict.fromkeys(callback.best_k_models, score)
            callback.kth_value = callback.best_model_score = score
