"""compare: methods side by side on the user's own task, paired by seed, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import product

from idp_deploy.arguments import count, names, share
from idp_deploy.flow import Interval, Model, Recipe, Shown
from idp_deploy.masks import write_zeros
from idp_deploy.pruning.options import check_options, known_options, meant, options_for
from idp_deploy.pruning.results import Run
from idp_deploy.pruning.training import prune, pruner_for
from idp_deploy.pruning.tuning import FIRST_SEED, SEEDS, Settings, best, settings_of
from idp_deploy.tasks import Task, evaluate


@dataclass(frozen=True)
class Difference:
    """`method` minus `reference` over the seeds both ran with, in the metric's unit; a tie where 0 lies inside."""

    method: str
    reference: str
    sparsity: float
    seeds: int
    interval: Interval

    @property
    def verdict(self) -> str:
        """better | worse | tie"""
        return "better" if self.interval.low > 0 else "worse" if self.interval.high < 0 else "tie"


@dataclass(frozen=True)
class Comparison(Shown):
    """Every run, and every method against the first one."""

    dense: float
    runs: tuple[Run, ...]
    differences: tuple[Difference, ...] = field(default=())
    tuning: tuple[Run, ...] = field(default=())  # what the settings of `runs` were chosen by, on seeds of its own

    def scores(self, method: str, sparsity: float) -> list[float]:
        """Hardened accuracies, seed by seed."""
        return [run.accuracy for run in self.runs if (run.method, run.sparsity) == (method, sparsity)]

    def mean(self, method: str, sparsity: float) -> float:
        """Mean hardened accuracy; NaN where there is no run."""
        scores = self.scores(method, sparsity)
        return sum(scores) / len(scores) if scores else math.nan

    def interval(self, method: str, sparsity: float) -> Interval | None:
        """That mean with its 95 % interval; None below two runs."""
        return mean_interval(self.scores(method, sparsity))


def compare(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    methods: Sequence[str],
    sparsities: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Mapping[str, object]] | None = None,
    finished: Callable[[Run], None] | None = None,
    known: Sequence[Run] = (),
    tune: int = 1,
) -> Comparison:
    """Prune `model` with every method at every sparsity and seed, and score the hardened result on validation data.

    Args:
        recipe: what all runs share: epochs, allocation, pattern, skip; its options go to the methods that know them.
        options: settings of single methods, over the recipe's.
        finished: told each run as it ends.
        known: runs of the same model, task and recipe that need not be repeated.
        tune: how many settings each method may choose from, the shipped ones among them, by runs on seeds that do not
            judge; 1: as shipped.
    """
    recipe, methods = meant(recipe), names("methods", methods, "idp")
    sparsities = [share("sparsities", one) for one in ([sparsities] if isinstance(sparsities, str) else sparsities)]
    seeds = [count("seeds", seed) for seed in seeds]
    for name, value in recipe.options.items():
        if not any(name in known_options(method, recipe.mode) for method in methods):
            check_options(methods[0], recipe.mode, {name: value})
    recipe = replace(recipe, epochs=recipe.epochs or task.epochs)
    own = {method: _options(recipe, method, options or {}) for method in methods}
    candidates = {method: settings_of(method, recipe.mode, tune, own[method]) for method in methods}
    for method, sparsity in product(methods, sparsities):  # not after hours what can be refused now
        for settings in candidates[method]:
            one = replace(recipe, method=method, sparsity=sparsity, options={**own[method], **settings})
            pruner_for(deepcopy(model.module), one, task.example_inputs())
    have = list(known)

    def ran(method: str, sparsity: float, seed: int, settings: Settings) -> Run:
        wanted = (method, sparsity, seed, settings)
        for run in have:
            if (run.method, run.sparsity, run.seed, run.settings) == wanted:
                return run
        one = replace(recipe, method=method, sparsity=sparsity, seed=seed, options={**own[method], **settings})
        run = replace(score(model, task, one), settings=settings)
        have.append(run)
        if finished is not None:
            finished(run)
        return run

    runs, tuning = [], list[Run]()
    for sparsity in sparsities:
        chosen: dict[str, Settings] = {method: candidates[method][0] for method in methods}
        for method in methods if tune > 1 else ():
            tried = [
                ran(method, sparsity, FIRST_SEED + seed, settings)
                for seed in range(SEEDS)
                for settings in candidates[method]
            ]
            chosen[method] = best(tried, candidates[method])
            tuning += tried
        runs += [ran(method, sparsity, seed, chosen[method]) for seed in seeds for method in methods]
    differences = [difference(runs, method, methods[0], sparsity) for sparsity in sparsities for method in methods[1:]]
    told = tuple(d for d in differences if d is not None)
    return Comparison(evaluate(model.module, task), tuple(runs), told, tuple(tuning))


def _options(recipe: Recipe, method: str, options: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {**options_for(method, recipe.mode, recipe.options), **options.get(method, {})}


def score(model: Model, task: Task, recipe: Recipe) -> Run:
    """One run, scored with its exact zeros in place."""
    masked = prune(model, task, recipe)
    masks = write_zeros(masked.module, masked.soft_masks)
    prunable = sum(mask.numel() for mask in masks.values())
    zeros = prunable - sum(int(mask.sum()) for mask in masks.values())
    return Run(recipe.method, recipe.sparsity, recipe.seed, evaluate(masked.module, task), zeros / prunable)


def difference(runs: Sequence[Run], method: str, reference: str, sparsity: float) -> Difference | None:
    """The paired difference with its 95 % interval by Student's t; None below two common seeds.

    >>> runs = [Run(m, 0.9, s, a, 0.9) for m, a in (("idp", 0.9), ("gmp", 0.8)) for s in range(3)]
    >>> difference(runs, "gmp", "idp", 0.9).verdict
    'worse'
    """
    scores = {
        name: {run.seed: run.accuracy for run in runs if (run.method, run.sparsity) == (name, sparsity)}
        for name in (method, reference)
    }
    seeds = sorted(set(scores[method]) & set(scores[reference]))
    interval = mean_interval([scores[method][seed] - scores[reference][seed] for seed in seeds])
    return Difference(method, reference, sparsity, len(seeds), interval) if interval is not None else None


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Their mean with its 95 % interval by Student's t; None below two values.

    >>> found = mean_interval([0.8, 0.9])
    >>> round(found.low, 3), round(found.middle, 3), round(found.high, 3)
    (0.215, 0.85, 1.485)
    """
    from scipy.stats import t

    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    reach = float(t.ppf(0.975, len(values) - 1)) * spread
    return Interval(mean - reach, mean, mean + reach, coverage=0.95)
