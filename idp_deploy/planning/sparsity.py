"""How sparse must a model be to fit a device? The least share of zeros at which the budgets hold, by one recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from idp_deploy.errors import UsageError
from idp_deploy.flow import Budget, Model, Recipe, Report
from idp_deploy.planning.costs import Prices
from idp_deploy.simulation.targets import Target

CANDIDATES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98)
PREDICTABLE = frozenset(
    ("size", "gzip", "brotli", "latency", "memory", "sparsity", "flash", "sram", "arena", "cpu_operators")
)

Announce = Callable[[str], None]


def sparsity_for(
    model: Model,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    target: Target,
    budgets: Sequence[Budget],
    *,
    announce: Announce = lambda _: None,
) -> float:
    """The smallest candidate sparsity at which every predictable budget of `target` holds.

    Raises:
        UsageError: the target has no budget, or none of the candidates meets them; the message names the metric.
    """
    mine = predictable(budgets, target)
    prices = Prices(model, example_inputs, target, tuple(dict.fromkeys(budget.format for budget in mine)))
    found, report = least(prices, recipe, mine, announce=announce)
    if not report.passed:
        broken = next(check for check in report.checks if check.verdict != "pass")
        raise UsageError(
            f"even at {found.sparsity:.0%} zeros {target.name} misses its {broken.budget.metric} budget "
            f"({broken.value} against {broken.budget.limit}); {broken.detail}",
            way_out=broken.fix or "loosen the budget, quantize, or use a smaller model",
        )
    return found.sparsity


def predictable(budgets: Sequence[Budget], target: Target) -> list[Budget]:
    """Those of `budgets` that a target has and a file answers before training. UsageError: there are none."""
    mine = [b for b in budgets if b.target == target.name and b.metric in PREDICTABLE]
    if not mine:
        raise UsageError(
            f"there is no budget for {target.name}, so nothing says how sparse is enough",
            way_out=f'configure one under [tool.idp-deploy.budgets.{target.name}.tflite], such as size = "1 MB"',
        )
    return mine


def least(
    prices: Prices,
    recipe: Recipe,
    budgets: Sequence[Budget],
    candidates: Sequence[float] = CANDIDATES,
    *,
    announce: Announce = lambda _: None,
) -> tuple[Recipe, Report]:
    """The recipe with the smallest candidate sparsity whose files meet the budgets; the largest where none does.

    Bisects: more zeros never make a file larger or an estimate slower.
    """
    low, high = 0, len(candidates) - 1
    reports = {high: prices.report(replace(recipe, sparsity=candidates[high]), budgets)}
    while reports[high].passed and low < high:
        middle = (low + high) // 2
        reports[middle] = prices.report(replace(recipe, sparsity=candidates[middle]), budgets)
        met = reports[middle].passed
        verdict = "within" if met else "over"
        announce(f"{recipe.pattern}, {candidates[middle]:.1%} zeros: {verdict} the budgets of {prices.target.name}")
        low, high = (low, middle) if met else (middle + 1, high)
    return replace(recipe, sparsity=candidates[high]), reports[high]
