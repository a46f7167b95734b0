"""Which way to a device's latency: before training, from the simulator's times and each layer's loudness.

    Model ──Prices──▶ dense file ──times, loudness──▶ Problem ──within(limit)──▶ Choice ──recipe──▶ Prices: is it kept?

Two ways are worked out and the quieter one is taken: channels removed for real, which every runtime rewards, and single
weights where the runtime has sparse kernels for them, with channels beside where those do not reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from idp_deploy.channels import Coupled, couple
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Budget, Check, FormatName, Model, Recipe, Report
from idp_deploy.masks import Channel, prunable_weights
from idp_deploy.planning.costs import Cost, Prices
from idp_deploy.planning.layers import KEPT, ZEROS, runs_sparse, times
from idp_deploy.planning.layerwise import Choice, Group, Problem, Weight, sides
from idp_deploy.planning.noise import lost_by_zeros, loudness
from idp_deploy.pruning.selecting import select
from idp_deploy.units import METRICS, show
from idp_deploy.widths import kept_channels

PROBED = 0.9  # zeros at which it is looked which layers sparse kernels run
LEAST_ZEROS = 0.69  # of what counts: XNNPACK goes sparse above 0.667, and whole units round
TRIES = 6  # files that are made of one way
TIGHTER = 0.97  # of the time that the last try was allowed
SLACK = 0.9  # of a budget: a file that takes less could have kept more
LOOSENED = 2  # times that such a one is


@dataclass(frozen=True, eq=False)
class Route:
    """One way: a recipe, what it is expected to leave, and in words."""

    says: str
    recipe: Recipe
    noise: float  # expected in the outputs before training makes up for it; ways are compared by it
    costs: tuple[Cost, ...]
    report: Report

    @property
    def expected(self) -> Sequence[Check]:
        """Every budget with the value that the pruned files have."""
        return self.report.checks


def routes(
    prices: Prices,
    recipe: Recipe,
    budgets: Sequence[Budget],
    *,
    inputs: tuple[Any, ...] | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Route]:
    """The ways that meet every budget, the quietest first.

    Args:
        recipe: its method, training and skips are kept.
        budgets: one latency at least.
        inputs: on which loudness is measured: a batch of the task where there is one.

    Raises:
        UsageError: no way meets them; the message says how near the nearest comes. Also where the device has no
            latency for this model.
    """
    limit = min((b for b in budgets if b.metric == "latency"), key=lambda b: b.limit)
    tables = _Tables(prices, recipe, limit.format, inputs)
    dense = tables.dense
    assert dense.latency_ms is not None
    over = dense.latency_ms / limit.limit - 1
    announce(
        f"{prices.target.name}, {limit.format} on {dense.runtime}: {show(dense.latency_ms, 'ms')} as it is, "
        f"{show(limit.limit, 'ms')} wanted" + (f": {over:.0%} too slow" if over > 0 else "")
    )
    found, nearest = [], []
    for sparse in (False, True) if tables.thins else (False,):
        route, best = _route(tables, sparse, recipe, budgets, limit)
        nearest.append(best)
        if route is not None:
            found.append(route)
            values = ", ".join(f"{c.budget.metric} {show_check(c)}" for c in route.expected)
            announce(f"{route.says}: {values}; noise {route.noise:.2g}")
    if not found:
        least = min(nearest)
        raise UsageError(
            f"no way to {show(limit.limit, 'ms')} on {prices.target.name}: even the fastest takes {show(least, 'ms')}, "
            f"{least / limit.limit - 1:.0%} too long ({tables.why_not()})",
            way_out="loosen the budget, quantize, or use a smaller model",
        )
    return sorted(found, key=lambda route: route.noise)


def show_check(check: Check) -> str:
    """A value with its unit, as reports show it."""
    return show(check.value, METRICS[check.budget.metric].unit) if check.value is not None else "unknown"


def _route(
    tables: _Tables, sparse: bool, recipe: Recipe, budgets: Sequence[Budget], limit: Budget
) -> tuple[Route | None, float]:
    """The quietest choice whose files keep every budget, and the shortest time that a choice of this kind took."""
    problem, dense = tables.problem(sparse), tables.dense.latency_ms or 0.0
    allowed, shortest, loosened = limit.limit, float("inf"), 0
    found: Route | None = None
    above = (problem.milliseconds(problem.dense(sparse=sparse)), dense)  # too slow, by the tables and by its file
    for _ in range(TRIES):
        within = problem.within(allowed, sparse=sparse)
        choice = within or (None if found else problem.fastest(sparse=sparse))
        if choice is None:
            break
        made = tables.recipe(choice, recipe)
        costs, report = tables.prices.priced(made, budgets)
        taken = next(cost for cost in costs if cost.format == limit.format).latency_ms or 0.0
        shortest, counted = min(shortest, taken), problem.milliseconds(choice)
        if report.passed:
            route = Route(tables.words(choice), made, problem.noise(choice), costs, report)
            found = route if found is None or route.noise < found.noise else found
            if taken > SLACK * limit.limit or above[1] <= taken or loosened == LOOSENED or not made.sparsity:
                break
            # what has no weights was counted as it is, and takes less with fewer channels
            loosened += 1
            allowed = counted + (SLACK * limit.limit - taken) * (above[0] - counted) / (above[1] - taken)
        elif found is not None or within is None:
            break
        else:
            above = (counted, taken) if taken > limit.limit else above
            allowed = allowed * TIGHTER / max(1.0, taken / limit.limit)
    return found, shortest


class _Tables:
    """What is known of the dense model on the device."""

    def __init__(self, prices: Prices, recipe: Recipe, format: FormatName, inputs: tuple[Any, ...] | None) -> None:
        self.prices, self.format = prices, format
        self.model: Model = prices.model
        module = self.model.module
        self.dense = next(c for c in prices.of(replace(recipe, sparsity=0.0)) if c.format == format)
        if self.dense.latency_ms is None:
            raise UsageError(
                f"nothing says how long this model takes on {prices.target.name}: {self.dense.reason}",
                way_out="set a size instead of a latency, or a share of zeros: --target 0.9",
            )
        choice = {k: v for k, v in recipe.options.items() if k in ("first", "last", "depthwise")}
        free = select(module, "unstructured", skip=recipe.skip, **choice).chosen
        self.names = [name for name in free if free[name][0].kind not in ("embedding", "depthwise")]
        self.coupled = self._coupled(module)
        kinds = {name: weight.kind for name, weight in prunable_weights(module).items()}
        along = (name for one in self.coupled for name in one.followers if kinds.get(name) == "depthwise")
        self.along = tuple(dict.fromkeys(along))  # filters that go with the channels they read
        self.thins, self.unlocked = self._sparse_layers(recipe)
        self.times = times(self.dense.loaded, prices.target, self.dense.runtime, self.thins)
        loud = loudness(module, inputs or prices.example_inputs, [*self.names, *self.along])
        self.loud = loud
        self._kinds = kinds

    def _coupled(self, module: nn.Module) -> list[Coupled]:
        """Groups of channels that may go, all of whose weights may be pruned."""
        kinds = {name: weight.kind for name, weight in prunable_weights(module).items()}
        prunable = [name for name in kinds if kinds[name] != "depthwise"]
        try:
            found = couple(module, self.prices.example_inputs, prunable)
        except ConversionError:
            return []
        recurrent = {name for name in kinds if kinds[name] == "recurrent"}  # no table says what fewer units take
        return [
            one
            for one in found
            if not one.fixed and set(one.weights) <= set(self.names) and recurrent.isdisjoint(one.weights)
        ]

    def _sparse_layers(self, recipe: Recipe) -> tuple[frozenset[str], frozenset[str]]:
        """(operators, layers) that sparse kernels would run if zeros were plenty."""
        runtime = self.prices.target.runtime(self.format)
        if runtime is None or not runtime.sparse:
            return frozenset(), frozenset()
        probe = replace(recipe, sparsity=PROBED, pattern="unstructured", allocation="uniform", options={})
        cost = next(c for c in self.prices.of(probe) if c.format == self.format)
        found = runs_sparse(cost.estimate)
        return found, frozenset(op.layer or op.name for op in cost.estimate.ops if op.name in found)

    def problem(self, sparse: bool) -> Problem:
        """With sparse kernels or without."""
        module = self.model.module
        groups = []
        for one in self.coupled:
            layers = {name.rpartition(".")[0]: one.share(name) for name in (*one.weights, *one.followers)}
            readers = [name for name in one.readers if f"{name}.weight" in self.names]
            groups.append(
                Group(
                    one.many, layers, one.readers,
                    self._lost(self._made(one), one),
                    self._lost([f"{name}.weight" for name in readers], one),
                    _stretch(one), one.grouped,
                )
            )  # fmt: skip
        made = sides([{name: one.share(name) for name in self._made(one)} for one in self.coupled])
        read = sides([{f"{name}.weight": share for name, share in one.readers.items()} for one in self.coupled])
        weights = []
        for name in (*self.names, *self.along):
            layer, tensor = name.rpartition(".")[0], module.get_parameter(name)
            counts = layer in self.unlocked or self._kinds[name] == "linear"
            weights.append(
                Weight(
                    name, layer, tensor.numel(), self.loud[name], lost_by_zeros(tensor, ZEROS), made.get(name, ()),
                    read.get(name, ()), layer in self.unlocked, counts,
                )
            )  # fmt: skip
        return Problem(weights, groups, self.times, LEAST_ZEROS)

    def _made(self, one: Coupled) -> tuple[str, ...]:
        return (*one.weights, *(name for name in one.followers if name in self.along))

    @staticmethod
    def _lost(names: Sequence[str], one: Coupled) -> dict[str, np.ndarray]:
        """Weight → what it loses with the channels, by place in KEPT.

        The quietest channels go, yet what is lost counts by their number: trained again, a net misses width more
        evenly than its power says.
        """
        left = [kept_channels(one.many, share, _stretch(one), grouped=one.grouped) for share in KEPT]
        lost = 1 - np.array(left) / one.many
        return dict.fromkeys(names, lost)

    def recipe(self, choice: Choice, recipe: Recipe) -> Recipe:
        """The same as words that `prune` understands."""
        problem, module = self.problem(choice.sparse), self.model.module
        rules, shares = {}, {}
        zeros = entries = 0.0
        for i, weight in enumerate(problem.weights):
            group = next((g for g, _ in weight.made_by), -1)  # filters along apart, it has one
            kept = choice.kept[group] if group >= 0 else 0
            if weight.name in self.along:
                rules[weight.name] = "skip"
            elif kept:
                narrow = problem.groups[group]
                share, rules[weight.name] = 1 - narrow.kept(kept) / narrow.channels, "channel"
            else:
                share, rules[weight.name] = ZEROS[choice.zeros[i]], "unstructured"
            if weight.name in self.along or not share:
                rules[weight.name] = "skip"
                continue
            shares[weight.name] = share
            zeros, entries = zeros + share * weight.entries, entries + weight.entries
        for name in prunable_weights(module):
            rules.setdefault(name, "skip")
        if not entries:
            return replace(recipe, sparsity=0.0)
        options = {**recipe.options, "rules": rules, "shares": shares}
        return replace(recipe, sparsity=zeros / entries, pattern="unstructured", allocation="auto", options=options)

    def words(self, choice: Choice) -> str:
        """One line of what a choice does."""
        problem = self.problem(choice.sparse)
        thin = [(w, ZEROS[z]) for w, z in zip(problem.weights, choice.zeros, strict=True) if z]
        cut = [(g, k) for g, k in zip(problem.groups, choice.kept, strict=True) if k]
        told = []
        if thin:
            share = sum(w.entries * s for w, s in thin) / sum(w.entries for w, _ in thin)
            told.append(f"{share:.0%} of the weights of {len(thin)} layers zero, which run sparse")
        if cut:
            gone = sum(g.channels - g.kept(k) for g, k in cut) / sum(g.channels for g, _ in cut)
            told.append(f"{gone:.0%} of the channels of {sum(len(g.lost_out) for g, _ in cut)} layers removed")
        return " and ".join(told) or "nothing to prune"

    def why_not(self) -> str:
        """What stands in the way of more."""
        removable = f"{len(self.coupled)} group{'s' * (len(self.coupled) != 1)} of channels can go"
        if self.thins:
            return f"{len(self.thins)} layer{' runs' if len(self.thins) == 1 else 's run'} sparse, {removable}"
        return f"{self.dense.runtime} skips no zeros here, and {removable}"


def _stretch(one: Coupled) -> int:
    met = [one.channels[name] for name in one.weights if name in one.channels]
    return min((Channel.made_of(places, one.many).stretch for places in met), default=1)
