"""The calls a file and its model are compared on: the example, random ones like it, and the task's held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from idp_deploy.capturing import know_structures
from idp_deploy.errors import UsageError
from idp_deploy.flow import Contents
from idp_deploy.formats.sessions import Arrays
from idp_deploy.tasks import Task

Call = tuple[Any, ...]  # positional arguments of the model's forward


def seeded_calls(example: Call, *, task: Task | None = None, seeds: int = 3) -> list[Call]:
    """The example, then `seeds` random calls like it, then `seeds` validation samples where a task is given.

    Random floats are normal with the mean and deviation of what was observed; integers, and floats that are all whole,
    are uniform over the observed range, so that an index never leaves its table; inputs with at most two distinct
    values (masks, flags) are shuffled. Observed is the first validation batch where there is a task, else the example.
    """
    observed, calls = example, [example]
    if task is not None:
        batch = next(iter(task.validation_loader()), None)
        if batch is None:
            raise UsageError("the task's validation_loader() is empty", way_out="give it at least one batch")
        observed = task.inputs(batch)
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        calls.append(_drawn(example, observed, generator))
    if task is not None:
        calls += list(islice(samples(task, example), seeds))
    return calls


def samples(task: Task, example: Call) -> Sequence[Call]:
    """The first validation batch cut into calls with the example's batch extent."""
    batch = task.inputs(next(iter(task.validation_loader())))
    rows = batch_extent(batch)
    step = max(1, batch_extent(example))
    return [rows_of(batch, start, step) for start in range(0, rows - step + 1, step)]


def calls_from_file(contents: Contents, *, seeds: int = 3) -> list[Call]:
    """Random calls for a file without a model: normal floats, integers 0 and 1, a free extent taken as 1."""
    layouts = contents.interface.layouts
    calls: list[Call] = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        call = []
        for name in contents.interface.inputs:
            if name not in contents.inputs:  # the outputs do not depend on it: anything will do
                call.append(torch.zeros(1))
                continue
            dtype = _number(contents, name)
            shape = tuple(1 if extent < 0 else extent for extent in contents.values[name].shape)
            if layouts.get(name) == "NHWC":
                shape = (shape[0], shape[-1], *shape[1:-1])
            drawn = generator.normal(size=shape) if dtype.kind == "f" else generator.integers(0, 2, size=shape)
            call.append(torch.from_numpy(np.asarray(drawn).astype(np.float32 if dtype.kind == "f" else dtype)))
        calls.append(tuple(call))
    return calls


def _number(contents: Contents, name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(contents.values[name].dtype)
    except (KeyError, TypeError):
        dtype = np.dtype(object)
    if dtype.kind not in "fiub":
        declared = contents.values[name].dtype if name in contents.values else "nothing"
        raise UsageError(
            f"{contents.path.name} declares {declared} for its input '{name}', for which no values can be drawn",
            way_out="give example inputs (--inputs)",
        )
    return dtype


def arrays(values: Any) -> Arrays:
    """The tensors of a call or of a model's outputs, flattened in order, as contiguous numpy arrays."""
    know_structures(values)
    tensors = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))
    return tuple(
        np.asarray(t.detach().cpu().to(torch.float32 if t.dtype == torch.bfloat16 else t.dtype).numpy(), order="C")
        for t in tensors
    )


def batch_extent(values: Any) -> int:
    """The first extent of the first tensor that has one; 1 where there is none."""
    return next((len(leaf) for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor) and leaf.dim()), 1)


def rows_of(values: Any, start: int, count: int) -> Any:
    """The samples start … start + count of a batch in any nesting; tensors without the batch extent are left whole."""
    rows = batch_extent(values)

    def cut(leaf: Any) -> Any:
        whole = not isinstance(leaf, Tensor) or not leaf.dim() or len(leaf) != rows
        return leaf if whole else leaf[start : start + count]

    return pytree.tree_map(cut, values)


def _drawn(example: Call, observed: Any, generator: np.random.Generator) -> Call:
    leaves, spec = pytree.tree_flatten(example)
    seen = pytree.tree_leaves(observed)
    if len(seen) != len(leaves):
        raise UsageError(
            f"the task gives {len(seen)} inputs where the example has {len(leaves)}",
            way_out="let task.inputs(batch) and example_inputs agree",
        )
    return pytree.tree_unflatten([_like(a, b, generator) for a, b in zip(leaves, seen, strict=True)], spec)


def _like(example: Any, seen: Any, generator: np.random.Generator) -> Any:
    if not isinstance(example, Tensor) or not example.numel():
        return example
    pool = seen.detach().cpu().flatten() if isinstance(seen, Tensor) else example.detach().cpu().flatten()
    shape = tuple(example.shape)
    low, high = pool.min(), pool.max()
    if bool(((pool == low) | (pool == high)).all()) and not (example.is_floating_point() and low == high):
        drawn = pool[torch.from_numpy(np.resize(generator.permutation(len(pool)), example.numel()))]
    elif example.is_floating_point() and (low == high or not bool((pool == pool.round()).all())):
        deviation = float(pool.float().std()) if len(pool) > 1 else 0.0
        drawn = torch.from_numpy(generator.normal(float(pool.float().mean()), deviation or 1.0, size=shape))
    else:
        drawn = torch.from_numpy(generator.integers(int(low), int(high) + 1, size=shape))
    return drawn.reshape(shape).to(example.dtype)
