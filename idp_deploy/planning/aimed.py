"""plan: a device and its budgets → the recipe to train by, what is expected of it, and afterwards what was reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from idp_deploy.flow import Budget, Check, CompressedModel, FormatName, Model, Recipe
from idp_deploy.planning.costs import Prices
from idp_deploy.planning.routes import routes
from idp_deploy.planning.sparsity import budgets_of, sparsity_for
from idp_deploy.simulation.targets import Target
from idp_deploy.tasks import Task

BATCH = 32  # inputs on which the loudness of layers is measured


@dataclass(frozen=True, eq=False)
class Aimed:
    """What a device asks of the training to come."""

    recipe: Recipe
    expected: tuple[Check, ...]  # of the same zeros by magnitude
    prices: Prices
    budgets: tuple[Budget, ...]

    def reached(self, model: CompressedModel) -> tuple[Check, ...]:
        """The same budgets, of the model that was trained."""
        return tuple(self.prices.report_of(model, self.budgets).checks)


def plan(
    model: Model,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    target: Target,
    budgets: Sequence[Budget],
    *,
    free: bool = True,
    scheme: str | None = None,
    task: Task | None = None,
    encoding: str = "auto",
    options: Mapping[FormatName, Mapping[str, Any]] | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Aimed:
    """How to prune for a device.

    Where a latency is asked for and the simulator knows one, every layer is pruned in the way that pays on the
    runtime. Else, and where somebody has chosen a pattern, it is the least share of zeros by one pattern.

    Args:
        free: whether pattern and allocation may be chosen.
        scheme, encoding, options: of the files that ship.

    Raises:
        UsageError: the device has no budget, or none of the ways meets them; the message says by how much.
    """
    mine = budgets_of(target, budgets)
    formats = tuple(dict.fromkeys(budget.format for budget in mine))
    prices = Prices(
        model, example_inputs, target, formats, scheme=scheme, task=task, encoding=encoding, options=options
    )
    simulated = not any(runtime.compiler for runtime in target.runtimes) and not target.is_tool
    if free and simulated and any(budget.metric == "latency" for budget in mine):
        found = routes(prices, recipe, mine, inputs=_batch(task), announce=announce)[0]
        if found.recipe.sparsity:
            announce(f"taken: {found.says}")
            return Aimed(found.recipe, tuple(found.expected), prices, mine)
        announce(f"{target.name} keeps its budgets with nothing pruned")
    sparsity = sparsity_for(prices, recipe, mine, announce=announce)
    chosen = replace(recipe, sparsity=sparsity)
    return Aimed(chosen, tuple(prices.report(chosen, mine).checks), prices, mine)


def _batch(task: Task | None) -> tuple[Any, ...] | None:
    """Some training inputs in one call; None where there is no task or the model takes one at a time."""
    if task is None:
        return None
    inputs = task.inputs(next(iter(task.train_loader(0))))
    if not all(isinstance(one, Tensor) and one.dim() for one in inputs):
        return inputs
    return tuple(one[:BATCH] for one in inputs)
