"""What is compared: recipes of three kinds that take the same simulated time on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.suite import data, nets
from bench.suite.tasks import SmallTask
from idp_deploy.flow import Budget, FormatName, Model, Recipe
from idp_deploy.planning.costs import Prices
from idp_deploy.planning.routes import routes
from idp_deploy.simulation.targets import load_target

STEPS = 8  # halvings of the share of zeros
SEPARABLE = SmallTask(
    "coloured characters, separable net, fine-tuned, SGD",
    partial(nets.separable, 3, (24, 64, 96, 128, 128), (1, 2, 1, 1), 36),
    partial(data.coloured, 6000, 0.1),
    (),
    rate=0.1,
    steps=300,
    trained=900,
)
RESIDUAL = SmallTask(
    "grey characters, residual net, fine-tuned, AdamW",
    partial(nets.Residual, 1, (24, 48, 96), 36),
    partial(data.characters, 6000, 0.4),
    (),
    rate=2e-3,
    adamw=True,
    steps=300,
    trained=900,
)


@dataclass(frozen=True)
class Place:
    """A device with a runtime, how the others prune for it, and at which share of zeros uniform pruning sets the time.

    On a runtime without sparse kernels only channels make anything faster, so that is what the others remove as well.
    """

    target: str
    format: FormatName
    pattern: str
    share: float
    task: SmallTask = SEPARABLE


PLACES = {
    "sparse": Place("raspberry-pi-4", "tflite", "unstructured", 0.95),
    "dense": Place("raspberry-pi-4", "onnx", "channel", 0.6),
    "dense-residual": Place("raspberry-pi-4", "onnx", "channel", 0.6, RESIDUAL),
}


def recipes(place: Place, model: Model, batch: Tensor, inputs: tuple[Any, ...]) -> dict[str, tuple[Recipe, float]]:
    """Arm → its recipe and the simulated milliseconds of its file, pruned by magnitude."""
    prices = Prices(model, inputs, load_target(place.target), (place.format,))

    def time(recipe: Recipe) -> float:
        found = prices.of(recipe)[0].latency_ms
        assert found is not None
        return found

    uniform = Recipe(sparsity=place.share, pattern=place.pattern, allocation="uniform", mode="auto")
    limit = time(uniform)
    found: Mapping[str, Callable[[], Recipe]] = {
        "uniform": lambda: uniform,
        "global": lambda: _least(replace(uniform, allocation="global"), limit, time),
        "device": lambda: _device(prices, place, limit, batch),
    }
    return {arm: (recipe, time(recipe)) for arm, make in found.items() for recipe in [make()]}


def dense_time(place: Place, model: Model, inputs: tuple[Any, ...]) -> float:
    """Of the file before anything is pruned."""
    found = Prices(model, inputs, load_target(place.target), (place.format,)).of(Recipe(sparsity=0.0))[0].latency_ms
    assert found is not None
    return found


def _device(prices: Prices, place: Place, limit: float, batch: Tensor) -> Recipe:
    budget = Budget(place.target, place.format, "latency", limit, "bench.fit")
    return routes(prices, Recipe(), [budget], inputs=(batch,))[0].recipe


def _least(recipe: Recipe, limit: float, time: Callable[[Recipe], float]) -> Recipe:
    """With the fewest zeros that are as fast."""
    low, high = 0.3, 0.98
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if time(replace(recipe, sparsity=middle)) <= limit else (middle, high)
    return replace(recipe, sparsity=high)


def first_batch(task: SmallTask, rows: int = 32) -> Tensor:
    """Training inputs, on which loudness is measured."""
    x: Tensor = task.data()[0]
    return x[:rows]


def example(task: SmallTask) -> tuple[Any, ...]:
    """One call's arguments."""
    return (torch.zeros_like(first_batch(task, 1)),)
