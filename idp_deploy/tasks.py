"""What training, calibration and accuracy need to know about the user's data: the Task.

A task is any object with the methods below; subclass `Task` to inherit defaults that fit classification of
`(inputs, labels)` batches. `--task pkg.mod:task` names a callable without arguments that returns one.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import DataLoader

from idp_deploy.errors import IdpDeployError, UsageError, a_type, of_dead_worker
from idp_deploy.waiting import counted

_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"  # what Python's multiprocessing puts behind the folder
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes


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
        raise UsageError("the task has no train_loader(seed)", way_out="write it: batches of training data")

    def validation_loader(self) -> DataLoader[Any]:
        """Held-out batches, always in the same order."""
        raise UsageError("the task has no validation_loader()", way_out="write it: batches that are held out")

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
        return _sample(self.inputs(next(iter(self.validation_loader()))), 0)

    def calibration_inputs(self, samples: int = 64) -> Sequence[tuple[Any, ...]]:
        """Batch-1 calls that fix activation ranges. Default: the first training samples at seed 0."""
        calls: list[tuple[Any, ...]] = []
        for batch in self.train_loader(0):
            inputs = self.inputs(batch)
            for i in range(len(_tensors(inputs)[0])):
                calls.append(_sample(inputs, i))
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

    Raises:
        UsageError: the step of the task, or the forward, that fails, with what it was given.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    was_training = module.training
    module.eval()
    total, count = 0.0, 0
    try:
        loader = _attempt("the task's validation_loader", task.validation_loader) if batches is None else batches
        for batch in counted(islice(loader, limit), "accuracy", _length(loader, limit)):
            moved = to_device(batch, device)
            inputs = _attempt("the task's inputs(batch)", task.inputs, moved)
            outputs = _attempt("the model's forward", lambda given=inputs: module(*given), given=inputs)
            score, n = _attempt("the task's score(outputs, batch)", task.score, outputs, moved, given=outputs)
            total, count = total + score, count + n
    finally:
        module.train(was_training)
    return total / max(count, 1)


def _length(batches: Iterable[Any], limit: int | None) -> int | None:
    """How many batches there will be, where that is known."""
    try:
        known = len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None
    return known if limit is None else min(known, limit)


def rehearse(module: nn.Module, task: Task) -> None:
    """Take one batch of validation and one of training through `module`, so that a misfit is named before training.

    Nothing learns, and the module's mode, its statistics and the random state are as before.

    Raises:
        UsageError: a loader without batches or whose workers cannot be reached, or the step of the task or
            the forward that fails, with what it was given. FileError: a worker of a loader ended by itself.
    """
    was_training = module.training
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with own_randomness(), torch.no_grad():
            module.eval()
            for part, loader in (("validation", task.validation_loader), ("train", lambda: task.train_loader(0))):
                made = _attempt(f"the task's {part}_loader", loader)
                if part == "train" and not isinstance(made, DataLoader):
                    raise UsageError(
                        f"the task's train_loader returns {a_type(made)}",
                        way_out="return a torch.utils.data.DataLoader, which can be shared among processes",
                    )
                if getattr(made, "num_workers", 0):
                    _refuse_deaf_workers(part)
                batch = _attempt(f"the task's {part}_loader", lambda made=made: next(iter(made), None))
                if batch is None:
                    raise UsageError(
                        f"the task's {part}_loader gives no batch", way_out="check its data, or make batches smaller"
                    )
                batch = to_device(batch, device)
                inputs = _attempt("the task's inputs(batch)", task.inputs, batch)
                outputs = _attempt("the model's forward", lambda inputs=inputs: module(*inputs), given=inputs)
                name, step = ("score", task.score) if part == "validation" else ("loss", task.loss)
                found = _attempt(f"the task's {name}(outputs, batch)", step, outputs, batch, given=outputs)
                if part == "train" and not (isinstance(found, Tensor) and found.numel() == 1):
                    raise UsageError(
                        f"the task's loss returns {_shown(found)}", way_out="return one number, such as the mean"
                    )
                if part == "validation" and not (isinstance(found, tuple) and len(found) == 2):
                    raise UsageError(
                        f"the task's score returns {_shown(found)}",
                        way_out="return (sum of the metric over the batch, entries counted)",
                    )
            _attempt("the task's example_inputs", task.example_inputs)
    finally:
        module.train(was_training)


def _refuse_deaf_workers(part: str) -> None:
    """UsageError where the workers of a loader could not be reached: they hand tensors over by a socket in TMPDIR.

    A path of more bytes than a socket's may have lets every worker fail while the loader waits without end.
    """
    path = tempfile.gettempdir() + _SOCKET
    if sys.platform != "win32" and len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise UsageError(
            f"the folder for temporary files, {tempfile.gettempdir()}, has too long a path for the sockets of the "
            f"workers of the task's {part}_loader",
            way_out="set TMPDIR to a shorter one, or load with num_workers=0",
        )


def _attempt(what: str, step: Callable[..., Any], *arguments: Any, given: Any = None) -> Any:
    try:
        return step(*arguments)
    except (IdpDeployError, MemoryError):
        raise
    except Exception as error:  # the user's own code
        if dead := of_dead_worker(error):
            raise dead from error
        about = f" on {_shown(given)}" if given is not None else ""
        lines = str(error).strip().splitlines() or [""]
        first = lines[-1 if lines[0].startswith("Caught ") else 0]  # a worker of a loader sends its traceback
        raise UsageError(
            f"{what} fails{about} with {type(error).__name__}: {first}",
            way_out=_WAYS_OUT.get(what, "make task and model fit; --debug shows where"),
        ) from error


_WAYS_OUT = {
    "the task's train_loader": "train_loader(self, seed) is given the number its order and augmentation follow from; "
    "--debug shows where",
    "the model's forward": "the task's inputs(batch) says what it is given, by default all of the batch but its last "
    "element; --debug shows where",
}


def _shown(value: Any) -> str:
    """Shapes and types of whatever a model takes or returns.

    >>> _shown((torch.zeros(2, 3), {"mask": torch.ones(2).bool()}))
    '(float32 (2, 3), {mask: bool (2,)})'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        kind = "" if type(value) is dict else type(value).__name__
        return f"{kind}{{{', '.join(f'{key}: {_shown(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_shown, value))})"
    return a_type(value)


def _tensors(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _sample(inputs: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    """Entry `index` of every tensor, as a batch of 1."""
    sample: tuple[Any, ...] = tree_map_only(Tensor, lambda x: x[index : index + 1], inputs)
    return sample


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
def own_threads(count: int = 0) -> Iterator[None]:
    """`count` threads inside, or as many as there are; the caller's number comes back whatever is set inside."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
