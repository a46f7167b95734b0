"""What a run that was never made will take: training time from a few timed steps, sizes from the weights.

Rough by intent, and shown as such: after the first run its own times and files say it better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import nn

from idp_deploy.flow import Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.masks import prunable_weights
from idp_deploy.tasks import Task, own_randomness, rehearse, to_device

STEPS = 3  # of training that are timed, after one that is not
MASKING = 1.3  # a step with soft masks over a plain one, see bench/overhead.py
VALUE_BITS: Mapping[str | None, float] = {None: 32, "fp16": 16, "int8": 8, "int8-weights": 8, "lut4": 4}
HALF = 16


@dataclass(frozen=True)
class Expectation:
    """Before the first run."""

    training_seconds: float | None  # None where nothing is trained
    size_bytes: Mapping[str, int]  # by format
    epochs: int = 0
    steps: int = 0


def expect(
    module: nn.Module, task: Task | None, recipe: Recipe, scheme: str | None, formats: tuple[str, ...]
) -> Expectation:
    """What to expect of a run; the module is left as it is.

    Raises:
        UsageError: task and model do not fit, as `rehearse` finds.
    """
    sizes = {name: _bytes(module, recipe, _bits(name, scheme), dense_bits=_bits(name, None)) for name in formats}
    if task is None:
        return Expectation(None, sizes)
    rehearse(module, task)
    epochs = recipe.epochs or task.epochs
    steps = _length(task.train_loader(recipe.seed))
    checks = _length(task.validation_loader())
    step, check = _timed(module, task)
    seconds = epochs * (steps * step * MASKING + 2 * checks * check)  # soft and hardened accuracy after each epoch
    return Expectation(seconds, sizes, epochs, epochs * steps)


def _bits(format: str, scheme: str | None) -> float:
    is_half = format in FORMATS and FORMATS[format].half_floats
    return min(HALF, VALUE_BITS[scheme]) if is_half else VALUE_BITS[scheme]


def _bytes(module: nn.Module, recipe: Recipe, bits: float, dense_bits: float) -> int:
    """Σ over tensors of the cheaper of dense and one bit a position beside the values that are left."""
    names = (name for name in prunable_weights(module) if not any(fnmatch(name, glob) for glob in recipe.skip))
    prunable = sum(module.get_parameter(name).numel() for name in names)
    every = sum(tensor.numel() for tensor in module.state_dict().values())
    kept = prunable * (1 - recipe.sparsity)
    positions = 0 if recipe.pattern == "channel" else prunable
    sparse = (positions + kept * bits) / 8
    return round(min(sparse, prunable * bits / 8) + (every - prunable) * dense_bits / 8)


def _length(loader: object) -> int:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # a loader of a stream
        return 0


def _timed(module: nn.Module, task: Task) -> tuple[float, float]:
    """Seconds of one training step and of one validation batch."""
    with own_randomness():
        copy = deepcopy(module).train()
        batch = next(iter(task.train_loader(0)))
        device = next((p.device for p in copy.parameters()), torch.device("cpu"))
        batch = to_device(batch, device)
        times = []
        for _ in range(1 + STEPS):
            before = time.perf_counter()
            task.loss(copy(*task.inputs(batch)), batch).backward()
            times.append(time.perf_counter() - before)
        copy.eval()
        batch = to_device(next(iter(task.validation_loader())), device)
        before = time.perf_counter()
        with torch.no_grad():
            copy(*task.inputs(batch))
        return sorted(times[1:])[STEPS // 2], time.perf_counter() - before
