"""How wrong the cost model is where it was not told: whole models, whole devices, and both left out of the fit.

The errors met there, over the spread that `uncertainty` expected of them, become the widths of the 90 % intervals.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from idp_deploy.simulation.fitting import ANCHORS, NOISE, Fit, Parts, Row, fit, overlaps, predict
from idp_deploy.simulation.uncertainty import Levels, Observation, adapted, covariance, situation, spread

CELLS = ("same", "model", "device", "both", "device+anchor", "both+anchor")  # what is new to the fit, with one anchor
COVERAGE = 0.9
OTHERS = 6.0  # groups of other runtimes that speak beside a runtime's own in the width of its intervals


@dataclass(frozen=True, eq=False)
class Error:
    """One row predicted without itself: error = log(predicted / measured)."""

    row: Row
    cell: str
    error: float
    spread: float  # expected standard deviation of the error
    anchor: str = ""

    @property
    def group(self) -> str:
        """What is new in the cell and makes errors alike: the network or the device."""
        return self.row.network if self.cell in ("same", "model") else self.row.device

    @property
    def situation(self) -> str:
        """`situation` of its row."""
        return situation(self.row.family, self.row.precision, self.row.threads)


def fold(name: str, folds: int) -> int:
    """A stable fold by name: relatives (resnet50, resnet50_v2) may fall apart, one name never does."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % folds


def _cut(parts: Parts, left: np.ndarray, right: np.ndarray) -> Parts:
    return tuple(part[np.ix_(left, right)] for part in parts)


def held_out(rows: Sequence[Row], levels: Levels, folds: int = 10, device_folds: int = 0) -> Iterator[Error]:
    """Every row in every cell it can be in; models leave in folds, devices too or each by itself.

    An anchor is one of ANCHORS measured in the same place (device, core, runtime, publication), precision and threads.
    Where both are new, the models leave the fit that never met the device by `Fit.without`.
    """
    parts = overlaps(rows, levels)
    models = np.array([fold(row.network, folds) for row in rows])
    devices = np.array([str(fold(row.device, device_folds)) if device_folds else row.device for row in rows])
    order = np.array([fold(f"{i}", 10) for i in range(len(rows))])
    everything = np.arange(len(rows))

    def fitted(train: np.ndarray) -> Fit:
        return fit([rows[i] for i in train], levels, _cut(parts, train, train))

    def cell(
        name: str, model: Fit, train: np.ndarray, test: np.ndarray, wanted: Callable[[int], bool]
    ) -> Iterator[Error]:
        found = predict(model, [rows[i] for i in test], _cut(parts, test, train))
        cases = [_Case(rows[i], c, model, levels) for i, c in zip(test, found, strict=True)]
        trained = {rows[i].place for i in train}
        for case, i in zip(cases, test, strict=True):
            if wanted(i) and (name != "model" or case.row.place in trained):
                yield case.error(name)
        if name not in ("device", "both"):
            return
        alike = defaultdict(list)
        for case, i in zip(cases, test, strict=True):
            alike[case.row.place, case.row.precision, case.row.threads].append((case, wanted(i)))
        for together in alike.values():
            for anchor, new in together:
                if anchor.row.network not in ANCHORS or (name == "both" and new):
                    continue
                for case, new in together:
                    if new and case.row.network != anchor.row.network:
                        yield case.error(f"{name}+anchor", anchor.row)

    for f in sorted(set(order)):
        train = everything[order != f]
        yield from cell("same", fitted(train), train, everything[order == f], lambda i: True)
    for f in sorted(set(models)):
        train = everything[models != f]
        if len(train) > 1:
            yield from cell("model", fitted(train), train, everything[models == f], lambda i: True)
    for d in sorted(set(devices)):
        here = everything[devices == d]
        others = everything[devices != d]
        if len(others) < 2:
            continue
        unseen = fitted(others)
        yield from cell("device", unseen, others, here, lambda i: True)
        for g in sorted(set(models[here])):
            left = models[others] == g
            if (~left).sum() > 1:
                less = unseen.without(left) if left.any() else unseen
                yield from cell("both", less, others[~left], here, lambda i, g=g: bool(models[i] == g))  # type: ignore[misc]


class _Case:
    """A row as `simulate` would answer for it from a fit."""

    def __init__(self, row: Row, log_cost: np.ndarray, model: Fit, levels: Levels) -> None:
        self.row, self.log_cost = row, log_cost
        self.uncertain = covariance(row.effects, levels, model.known)

    def error(self, cell: str, anchor: Row | None = None) -> Error:
        cost, uncertain = self.log_cost, self.uncertain
        if anchor is not None:
            cost, uncertain = adapted(cost, uncertain, [Observation(anchor.peak_ms, anchor.latency_ms)], NOISE)
        times = self.row.peak_ms * np.exp(cost)
        total = float(times.sum())
        sigma = spread(uncertain, times / total, NOISE)
        return Error(
            self.row,
            cell,
            float(np.log(total / self.row.latency_ms)),
            sigma,
            anchor.model if anchor is not None else "",
        )


def group_weights(met: Sequence[Error]) -> np.ndarray:
    """Every group weighs one, however many rows it has.  → (errors,)"""
    rows: dict[str, int] = defaultdict(int)
    for error in met:
        rows[error.group] += 1
    return np.array([1 / rows[error.group] for error in met])


def width(own: Sequence[Error], others: Sequence[Error]) -> float:
    """Half-width of an interval in spreads: a conformal quantile in which groups count.

    A situation's own errors count by their groups; those met elsewhere stand in for OTHERS groups at most, so that few
    of its own mix with all others and many speak alone.
    """
    weights = np.concatenate([group_weights(own), group_weights(others)])
    mine, theirs = weights[: len(own)].sum(), weights[len(own) :].sum()
    weights[len(own) :] *= min(1.0, OTHERS / theirs) if theirs else 1.0
    ratios = np.array([abs(e.error) / e.spread for e in (*own, *others)])
    order = np.argsort(ratios)
    groups = mine + min(OTHERS, theirs)
    wanted = min(1.0, COVERAGE * (1 + 0.5 / groups))  # half of what a handful of exchangeable groups would need
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(ratios[order][min(np.searchsorted(reached, wanted - 1e-9), len(ratios) - 1)])


def by_situation(met: Iterable[Error]) -> dict[str, list[Error]]:
    """Errors by cell, and by cell|situation."""
    found: dict[str, list[Error]] = defaultdict(list)
    for error in met:
        found[error.cell].append(error)
        found[f"{error.cell}|{error.situation}"].append(error)
    return dict(found)


def widths(met: Sequence[Error]) -> dict[str, float]:
    """Of one fit's errors, by kind|cell and kind|cell|situation: half-widths in spreads."""
    found = by_situation(met)
    table = {}
    for name, own in found.items():
        chosen = {id(error) for error in own}
        others = [error for error in found[name.partition("|")[0]] if id(error) not in chosen]
        table[f"{own[0].row.kind_alone}|{name}"] = width(own, others)
    return table


def typical_errors(met: Sequence[Error]) -> dict[str, float]:
    """Mean absolute percentage errors by the same names."""
    return {
        f"{errors[0].row.kind_alone}|{name}": float(np.abs(np.expm1([e.error for e in errors])).mean())
        for name, errors in by_situation(met).items()
    }
