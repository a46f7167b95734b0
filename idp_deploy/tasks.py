"""What training, calibration and accuracy need to know about the user's data: the Task.

A task is any object with the methods below; subclass `Task` to inherit defaults that fit classification of
`(inputs, labels)` batches. `--task pkg.mod:task` names a callable without arguments that returns one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


class Task:
    """Data, loss and metric of one problem. Only `train_loader` and `validation_loader` must be written.

    Example:
        class Digits(Task):
            def train_loader(self, seed): return DataLoader(train, batch_size=64, shuffle=True, generator=...)
            def validation_loader(self): return DataLoader(validation, batch_size=256)
    """

    metric_name: str = "accuracy"
    learning_rate: float | None = None  # peak rate for pruning epochs; None: 0.05 for SGD
    epochs: int = 20  # a sensible length for `prune` when --epochs is not given

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Batches in an order that depends on `seed` alone. A map-style dataset lets accelerate shard it."""
        raise NotImplementedError("a Task needs train_loader(seed)")

    def validation_loader(self) -> DataLoader[Any]:
        """Held-out batches, always in the same order."""
        raise NotImplementedError("a Task needs validation_loader()")

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        """The positional arguments of the model's forward for one batch: everything but the last element."""
        return tuple(batch[:-1])

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Scalar training loss. Default: cross entropy against the batch's last element."""
        return F.cross_entropy(outputs, batch[-1])

    def score(self, outputs: Any, batch: Any) -> tuple[float, int]:
        """(sum of the metric over the batch, entries counted). Default: (correct predictions, batch size).

        Also called with the outputs of an exported file, as float32 CPU tensors.
        """
        labels = batch[-1]
        return float((outputs.argmax(-1) == labels).sum()), int(labels.numel())

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer | None:
        """The optimizer for pruning epochs, or None for SGD with momentum 0.9 and weight decay 5e-4."""
        return None

    def example_inputs(self) -> tuple[Any, ...]:
        """One call's positional arguments with batch 1. Default: the first validation sample."""
        batch = next(iter(self.validation_loader()))
        return tuple(x[:1] for x in self.inputs(batch))

    def calibration_inputs(self, samples: int = 64) -> Sequence[tuple[Any, ...]]:
        """Batch-1 calls that fix activation ranges. Default: the first training samples at seed 0."""
        calls: list[tuple[Any, ...]] = []
        for batch in self.train_loader(0):
            inputs = self.inputs(batch)
            for i in range(len(inputs[0])):
                calls.append(tuple(x[i : i + 1] for x in inputs))
                if len(calls) == samples:
                    return calls
        return calls


@torch.random.fork_rng(devices=())  # a DataLoader draws from the caller's generator
@torch.no_grad()
def evaluate(module: nn.Module, task: Task, *, batches: Iterable[Any] | None = None, limit: int | None = None) -> float:
    """The task's metric, in [0, 1] for accuracy, with the module in eval mode; its mode is restored.

    Args:
        batches: what to score; the validation set by default.
        limit: at most this many batches.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    was_training = module.training
    module.eval()
    total, count = 0.0, 0
    try:
        for batch in islice(batches if batches is not None else task.validation_loader(), limit):
            moved = to_device(batch, device)
            score, n = task.score(module(*task.inputs(moved)), moved)
            total, count = total + score, count + n
    finally:
        module.train(was_training)
    return total / max(count, 1)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on `device`, whatever lists, tuples and dicts hold them."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        moved = [to_device(value, device) for value in batch]
        return (
            type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
        )  # a named tuple takes them apart
    return batch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Whatever is drawn or seeded inside leaves the caller's random state as it was.

    >>> before = torch.get_rng_state()
    >>> with own_randomness():
    ...     seed_everything(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
