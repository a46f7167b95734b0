"""Which kind of zeros does a device reward? Answered before training, by whatever answers for the device.

Scattered zeros, N:M and whole channels cost a network unlike amounts of accuracy and buy unlike things: on an Ethos-U
whose weights come from flash every zero counts, on an Ethos-U85 with all in SRAM 2:4 and 1:4 alone save cycles. So each
way is pruned by magnitude until it meets the budgets (`planning`), and of those that do the one is taken that keeps the
most of what the weights held:

    kept = mean over the pruned weights of Σ (w · mask)² / Σ w²
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from idp_deploy.aiming import STORED, aim
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Budget, CompressedModel, FormatName, Model, Recipe, Report
from idp_deploy.masks import NM, Channel, parse_pattern
from idp_deploy.planning.costs import AS_FLOATS, Prices, Shipped
from idp_deploy.planning.routes import routes
from idp_deploy.planning.sparsity import CANDIDATES, Announce, least, predictable
from idp_deploy.pruning import METHODS, one_shot
from idp_deploy.simulation.targets import VENDORS, Target
from idp_deploy.tasks import Task
from idp_deploy.units import METRICS, show

Figures = Mapping[tuple[str, str], float]  # (format, metric) → value in the metric's base unit
BATCH = 32
CHANNELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # shares of whole channels: half of them is a quarter of the work
# family of a device's runtime → what its arithmetic and its memory may reward; other devices get what was asked for
WAYS: Mapping[str, tuple[str, ...]] = {"vela": ("unstructured", "2:4", "1:4", "channel")}


@dataclass(frozen=True)
class Way:
    """One way to prune, as sparse as the budgets need it, and what it is expected to give."""

    recipe: Recipe
    figures: Figures = field(default_factory=dict)
    kept: float = 0.0  # see above
    missed: str = ""  # the budget that it does not meet, or why it cannot be had
    says: str = ""  # what it does, where that is no single pattern

    @property
    def name(self) -> str:
        """`2:4, 50 % zeros`."""
        if self.says:
            return self.says
        kind = {"unstructured": "scattered", "channel": "channels"}.get(self.recipe.pattern, self.recipe.pattern)
        return f"{kind}, {self.recipe.sparsity:.0%} zeros"

    def __str__(self) -> str:
        said = ", ".join(f"{f} {metric} {show(v, METRICS[metric].unit)}" for (f, metric), v in self.figures.items())
        return f"{self.name}: {said + '; ' if said else ''}{self.missed or f'keeps {self.kept:.0%} of the weights'}"


@dataclass(frozen=True, eq=False)
class Choice:
    """The way that was taken, by whose word, and those that were not."""

    way: Way
    others: tuple[Way, ...]
    prices: Prices
    budgets: tuple[Budget, ...]
    said_by: str  # "Vela 5.2.0", or "the estimate"

    def figures_of(self, compressed: CompressedModel) -> Figures:
        """What the model that was trained reaches, by the same word."""
        return figures(self.prices.report_of(compressed, self.budgets))


def ways_for(target: Target, recipe: Recipe) -> tuple[str, ...]:
    """The patterns worth asking about on a device where the user named none."""
    families = [runtime.family for runtime in target.runtimes if runtime.family in WAYS]
    only = METHODS[recipe.method].pattern if recipe.method in METHODS else None
    fitting = [way for way in WAYS[families[0]] if only in (None, type(parse_pattern(way)))] if families else []
    return tuple(fitting) or (recipe.pattern,)


def choose(
    model: Model,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    target: Target,
    budgets: Sequence[Budget],
    patterns: Sequence[str],
    *,
    free: bool = False,
    shipped: Shipped = AS_FLOATS,
    task: Task | None = None,
    announce: Announce = lambda _: None,
) -> Choice:
    """Of `patterns` the one that meets the budgets of `target` and keeps the most of the weights.

    Args:
        free: whether every layer may be pruned in a way of its own, as `routes` find it where the estimate answers for
            a latency.
        shipped: how the files will be written; as int8 where the device computes nothing else.
        task: gives calibration inputs for that.

    Raises:
        UsageError: the target has no budget, or no way meets them; the message says how far each comes.
    """
    mine = predictable(budgets, target)
    prices = prices_on(model, example_inputs, target, [b.format for b in mine], shipped=shipped, task=task)
    ways = []
    said_by = "the estimate"
    simulated = not target.is_tool and not any(runtime.family in VENDORS for runtime in target.runtimes)
    if free and simulated and any(budget.metric == "latency" for budget in mine):
        for route in routes(prices, recipe, mine, inputs=_batch(task), announce=announce):
            if route.recipe.sparsity:
                kept = _kept(model, route.recipe, example_inputs)
                ways.append(Way(route.recipe, figures(route.report), kept, says=route.says))
        if ways:
            return Choice(ways[0], tuple(ways[1:]), prices, tuple(mine), said_by)
        announce(f"{target.name} keeps its budgets with nothing pruned")
    for pattern in patterns:
        asked = replace(recipe, pattern=pattern)
        try:
            found, report = least(prices, asked, mine, _candidates(pattern), announce=announce)
        except (UsageError, ConversionError) as error:
            if len(patterns) == 1:
                raise
            ways.append(Way(asked, missed=error.message))
            continue
        vendor = next((e.vendor for e in report.estimates if e.vendor), None)
        said_by = vendor.software if vendor else said_by
        ways.append(Way(found, figures(report), _kept(model, found, example_inputs), _missed(report)))
        announce(str(ways[-1]))
    meeting = [way for way in ways if not way.missed]
    if not meeting:
        raise UsageError(
            f"no way to prune meets the budgets of {target.name}: {'; '.join(map(str, ways))}",
            way_out="loosen the budget, or use a smaller model",
        )
    best = max(meeting, key=lambda way: way.kept)
    return Choice(best, tuple(way for way in ways if way is not best), prices, tuple(mine), said_by)


def prices_on(
    model: Model,
    example_inputs: tuple[Any, ...],
    target: Target,
    formats: Sequence[FormatName],
    *,
    shipped: Shipped = AS_FLOATS,
    task: Task | None = None,
) -> Prices:
    """Prices of files as the target wants them: neural processing units and microcontrollers take integers."""
    if shipped.scheme is None and any(runtime.family in STORED for runtime in target.runtimes):
        shipped = replace(shipped, scheme="int8")
    formats = list(dict.fromkeys(formats))
    options = aim(formats, [target], scheme=shipped.scheme, encoding=shipped.encoding, options=shipped.options).options
    return Prices(model, example_inputs, target, formats, shipped=replace(shipped, options=options), task=task)


def _batch(task: Task | None) -> tuple[Any, ...] | None:
    """Some training inputs in one call, on which the loudness of layers is measured; None without a task."""
    if task is None:
        return None
    inputs = task.inputs(next(iter(task.train_loader(0))))
    if not all(isinstance(one, Tensor) and one.dim() for one in inputs):
        return inputs
    return tuple(one[:BATCH] for one in inputs)


def figures(report: Report) -> Figures:
    """Latency and bytes of each file, and every budgeted metric."""
    found: dict[tuple[str, str], float] = {}
    for estimate in report.estimates:
        vendor, ours = estimate.vendor, estimate.latency_ms
        latency = vendor.latency_ms if vendor else ours.middle if ours else None
        if latency is not None:
            found[estimate.format, "latency"] = latency
        stored = ("flash", vendor.flash_bytes) if vendor else ("size", estimate.size_bytes)
        found[estimate.format, stored[0]] = stored[1]
    checked = {(check.budget.format, check.budget.metric): check.value for check in report.checks}
    return found | {key: value for key, value in checked.items() if value is not None}


def _candidates(pattern: str) -> tuple[float, ...]:
    parsed = parse_pattern(pattern)
    if isinstance(parsed, NM):
        return (parsed.sparsity,)
    return CHANNELS if isinstance(parsed, Channel) else CANDIDATES


def _missed(report: Report) -> str:
    broken = next((check for check in report.checks if check.verdict != "pass"), None)
    if broken is None:
        return ""
    budget = broken.budget
    limit, value = (show(v, METRICS[budget.metric].unit) for v in (budget.limit, broken.value))
    return f"misses {budget.metric} {limit} with {value}" if broken.value is not None else broken.detail


@torch.no_grad()
def _kept(model: Model, recipe: Recipe, example_inputs: tuple[Any, ...]) -> float:
    pruned = one_shot(model, recipe, example_inputs)
    shares = []
    for name, mask in pruned.masks.items():
        whole = model.module.get_parameter(name).detach().double().square()
        shares.append(float((whole * mask).sum() / whole.sum().clamp_min(1e-300)))
    return sum(shares) / len(shares)
