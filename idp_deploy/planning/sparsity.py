"""How sparse must a model be to fit a device? The least share of zeros at which the budgets hold, by one recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from idp_deploy.errors import UsageError
from idp_deploy.flow import Budget, Recipe
from idp_deploy.planning.costs import Prices
from idp_deploy.simulation.targets import Target

CANDIDATES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98)
PREDICTABLE = ("size", "gzip", "brotli", "latency", "memory", "sparsity", "flash", "sram", "arena")


def budgets_of(target: Target, budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """Those of a device that say how it must be pruned.

    Raises:
        UsageError: there is none.
    """
    mine = tuple(b for b in budgets if b.target == target.name and b.metric in PREDICTABLE)
    if not mine:
        raise UsageError(
            f"there is no budget for {target.name}, so nothing says how sparse is enough",
            way_out=f'configure one under [tool.idp-deploy.budgets.{target.name}.tflite], such as size = "1 MB"',
        )
    return mine


def sparsity_for(
    prices: Prices, recipe: Recipe, budgets: Sequence[Budget], *, announce: Callable[[str], None] = lambda _: None
) -> float:
    """The smallest candidate sparsity at which every budget holds.

    Bisects CANDIDATES: more zeros never make a file larger or an estimate slower.

    Raises:
        UsageError: none of the candidates meets them; the message names the metric.
    """
    low, high, target = 0, len(CANDIDATES) - 1, prices.target
    last = prices.report(replace(recipe, sparsity=CANDIDATES[high]), budgets)
    if not last.passed:
        broken = next(check for check in last.checks if check.verdict != "pass")
        raise UsageError(
            f"even at {CANDIDATES[high]:.0%} zeros {target.name} misses its {broken.budget.metric} budget "
            f"({broken.value} against {broken.budget.limit}); {broken.detail}",
            way_out=broken.fix or "loosen the budget, quantize, or use a smaller model",
        )
    while low < high:
        middle = (low + high) // 2
        passed = prices.report(replace(recipe, sparsity=CANDIDATES[middle]), budgets).passed
        announce(f"{CANDIDATES[middle]:.1%} zeros: {'within' if passed else 'over'} the budgets of {target.name}")
        low, high = (low, middle) if passed else (middle + 1, high)
    return CANDIDATES[high]
