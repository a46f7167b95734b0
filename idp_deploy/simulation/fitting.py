"""The fit: coefficients of the cost model from published latencies.

The effects of `cost_model` are Gaussian with the standard deviations below, so the most probable coefficients are a
Gaussian process over situations whose kernel is (a² + b² · shareᵢ·shareⱼ) summed over the effects that two rows have
in common; a share is the part of a row's time spent in each term. The exponential makes it nonlinear: a dozen
re-linearizations, with weights that make an outlier count less and every device count the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from idp_deploy.simulation.cost_model import (
    CONTENTION,
    PRIOR_MEAN,
    PRIOR_SHIFT,
    TERMS,
    THREAD_LEVELS,
    Core,
    Effect,
    effects_of,
    kind_of,
)
from idp_deploy.simulation.uncertainty import FREEDOM, Levels, seen

NOISE = 0.08
PRIOR = np.array([PRIOR_MEAN[term] for term in TERMS])
ROBUST = 2.5  # residuals beyond this many NOISE are weighted down
# networks of one benchmark that others publish, nearly the same, under names of their own: left out together
SAME_NETWORKS = {
    "ncnn_mobilenet": "mobilenet_v1_1.0_224", "ncnn_mobilenet_v2": "mobilenet_v2_1.0_224", "ncnn_vgg16": "vgg16",
    "ncnn_resnet18": "resnet18", "ncnn_resnet50": "resnet50", "ncnn_squeezenet": "squeezenet_1.1_227",
    "ncnn_mnasnet": "mnasnet_1.0", "ncnn_alexnet": "alexnet", "mnasnet": "mnasnet_1.0",
}  # fmt: skip
ANCHORS = ("mobilenet_v1_1.0_224", "mobilenet_v2_1.0_224", "resnet50", "ssdlite_mobilenet_v2_300", "squeezenet_1.1_227")


@dataclass(frozen=True, eq=False)
class Row:
    """One published latency, ready to be fitted."""

    device: str
    core: Core
    family: str
    group: str
    model: str
    precision: str
    threads: int
    latency_ms: float
    peak_ms: np.ndarray  # (terms,)
    kind: str  # the fit it is in

    @property
    def effects(self) -> list[Effect]:
        """The effects that speak in it."""
        return effects_of(self.kind, self.family, self.core, self.device, self.group, self.precision, self.threads)

    @property
    def kind_alone(self) -> str:
        """The fit that speaks for it, whichever fit it helps."""
        return kind_of(self.family, self.precision, self.threads)

    @property
    def network(self) -> str:
        """Its model by the name that other publications give the same one."""
        return SAME_NETWORKS.get(self.model, self.model)

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What one anchor is good for: the same device, core, runtime and publication."""
        return (self.family, self.device, self.core.name, self.group)


@dataclass(eq=False)
class Fit:
    """The most probable effects, and what is needed to predict another row."""

    rows: Sequence[Row]
    levels: Levels
    shares: np.ndarray  # (rows, terms)
    weights: np.ndarray  # α of the Gaussian process
    spread: np.ndarray  # K + noise, (rows, rows)

    @cached_property
    def known(self) -> dict[tuple[str, str], np.ndarray]:
        """What groups say about every effect (`uncertainty.seen`)."""
        return seen((r.effects, r.device, r.network, share) for r, share in zip(self.rows, self.shares, strict=True))

    @cached_property
    def precision(self) -> np.ndarray:
        """Inverse of the spread.  → (rows, rows)"""
        from scipy.linalg import inv

        found: np.ndarray = inv(self.spread)
        return found

    def without(self, left: np.ndarray) -> Fit:
        """The same fit had it never met the rows in `left`, exact but for where it is linearized.

        With P the inverse of the spread, what remains of the weights is  α_kept − P_kept,left · P_left,left⁻¹ · α_left.
        """
        kept = ~left
        gone = np.linalg.solve(self.precision[np.ix_(left, left)], self.weights[left])
        weights = self.weights[kept] - self.precision[np.ix_(kept, left)] @ gone
        rows = [row for row, stays in zip(self.rows, kept, strict=True) if stays]
        return Fit(rows, self.levels, self.shares[kept], weights, self.spread[np.ix_(kept, kept)])

    def effects(self) -> dict[tuple[str, str], np.ndarray]:
        """Every effect's change of c; its sum over a row's effects plus the prior is that row's c."""
        found: dict[tuple[str, str], np.ndarray] = {}
        for row, alpha, share in zip(self.rows, self.weights, self.shares, strict=True):
            for level, identity, times in row.effects:
                a, b = self.levels[level]
                step = times * alpha * (a**2 + b**2 * share * FREEDOM**2)
                found[level, identity] = found.get((level, identity), np.zeros(len(TERMS))) + step
        return found


def prior(row: Row) -> np.ndarray:
    """c before any measurement."""
    shift = sum(times * PRIOR_SHIFT.get(level, 0.0) for level, _, times in row.effects)
    return PRIOR + shift


Parts = tuple[np.ndarray, ...]  # kernel in common and per term; the part of each that threads have


def overlaps(rows: Sequence[Row], levels: Levels) -> Parts:
    """What every pair of rows has in common.  → (rows, rows) four times"""
    common, each, threads, of_each = np.zeros((4, len(rows), len(rows)))
    effects = [row.effects for row in rows]
    for level, (a, b) in levels.items():
        ids: dict[str, int] = {}
        which, times = np.full(len(rows), -1), np.zeros(len(rows))
        for i, found in enumerate(effects):
            for name, identity, z in found:
                if name == level:
                    which[i], times[i] = ids.setdefault(identity, len(ids)), z
        same = (which[:, None] == which[None, :]) * np.outer(times, times)
        common += a**2 * same
        each += b**2 * same
        if level in THREAD_LEVELS:
            threads += a**2 * same
            of_each += b**2 * same
    return common, each, threads, of_each


def fit(rows: Sequence[Row], levels: Levels, parts: Parts | None = None) -> Fit:
    """The most probable effects of all rows together."""
    from scipy.linalg import solve

    common, each = (parts or overlaps(rows, levels))[:2]
    peak = np.array([row.peak_ms for row in rows])
    measured = np.log([row.latency_ms for row in rows])
    start = np.array([prior(row) for row in rows])
    counts = Counter((row.device, row.core.name) for row in rows)
    typical = float(np.median(list(counts.values())))
    balance = np.array([min(1.0, typical / counts[row.device, row.core.name]) for row in rows])
    current, robust = start.copy(), np.ones(len(rows))
    for step in range(15):
        times = peak * np.exp(current)
        totals = times.sum(1)
        shares = times / totals[:, None]
        residual = measured - np.log(totals)
        if step > 2:
            robust = 1 / np.sqrt(1 + (residual / (ROBUST * NOISE)) ** 2)
        spread = common + each * ((shares * FREEDOM**2) @ shares.T) + np.diag(NOISE**2 / (robust * balance))
        alpha = solve(spread, residual + (shares * (current - start)).sum(1), assume_a="pos")
        change = start + (common @ alpha)[:, None] + each @ (alpha[:, None] * shares * FREEDOM**2) - current
        largest = float(np.abs(change).max())
        current += change * min(1.0, 1.0 / largest) if largest else 0.0
        if largest < 2e-3:
            break
    return Fit(rows, levels, shares, alpha, spread)


def predict(model: Fit, rows: Sequence[Row], cross: Parts) -> np.ndarray:
    """c of other rows, as `Coefficients.log_cost` finds it from the effects.  → (rows, terms)"""
    weights, each = model.weights[:, None], model.weights[:, None] * model.shares * FREEDOM**2
    common, of_each, threads, of_threads = cross
    by_threads = np.array([prior(row) for row in rows]) - PRIOR + threads @ weights + of_threads @ each
    rest = PRIOR + (common - threads) @ weights + (of_each - of_threads) @ each
    return rest + np.minimum(by_threads, CONTENTION)
