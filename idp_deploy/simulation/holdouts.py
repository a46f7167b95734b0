"""How wrong the cost model is where it was not told: whole models, whole devices, and both left out of the fit.

The errors met there become the widths of the 90 % intervals: `widths`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from idp_deploy.simulation.calibration import ANCHORS, Parts, Row, anchored, fit, overlaps, predict
from idp_deploy.simulation.cost_model import FEW, kind_of

CELLS = ("same", "model", "device", "both", "device+anchor", "both+anchor")  # what is new to the fit, with one anchor


@dataclass(frozen=True, eq=False)
class Error:
    """One row predicted without itself: error = log(predicted / measured)."""

    row: Row
    cell: str
    error: float
    anchor: str = ""
    new_core: bool = False  # no device with this type of core was in the fit


def fold(name: str, folds: int) -> int:
    """A stable fold by name: relatives (resnet50, resnet50_v2) may fall apart, one name never does."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % folds


def _left_out(
    rows: Sequence[Row], levels: dict[str, tuple[float, float]], parts: Parts, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    def cut(left: np.ndarray, right: np.ndarray) -> Parts:
        return parts[0][np.ix_(left, right)], parts[1][np.ix_(left, right)]

    model = fit([rows[i] for i in train], levels, cut(train, train))
    return predict(model, [rows[i] for i in test], cut(test, train), cut(test, test))


def held_out(rows: Sequence[Row], levels: dict[str, tuple[float, float]], folds: int = 10) -> Iterator[Error]:
    """Every row in every cell it can be in.

    An anchor is one of ANCHORS measured in the same place (device, core, runtime, publication, precision, threads).
    """
    parts = overlaps(rows, levels)
    models = np.array([fold(row.model, folds) for row in rows])
    devices = np.array([fold(row.device, folds) for row in rows])
    order = np.array([fold(f"{i}", folds) for i in range(len(rows))])
    everything = np.arange(len(rows))

    def cell(name: str, train: np.ndarray, test: np.ndarray, wanted: Callable[[int], bool]) -> Iterator[Error]:
        if not len(test) or len(train) < 2:
            return
        mean, covariance = _left_out(rows, levels, parts, train, test)
        logs = np.log([rows[i].latency_ms for i in test])
        trained = {rows[i].place for i in train}
        cores = {rows[i].core.calibrated_as for i in train}
        for k, i in enumerate(test):
            if wanted(i) and (name != "model" or rows[i].place in trained):
                yield Error(rows[i], name, float(mean[k] - logs[k]), "", rows[i].core.calibrated_as not in cores)
        if name not in ("device", "both"):
            return
        for k, i in enumerate(test):
            row = rows[i]
            if row.model not in ANCHORS or (name == "both" and wanted(i)):
                continue
            moved = anchored(mean, covariance, k, row.latency_ms)
            for n, j in enumerate(test):
                other = rows[j]
                same = (other.place, other.precision, other.threads) == (row.place, row.precision, row.threads)
                if same and wanted(j) and other.model != row.model:
                    new_core = other.core.calibrated_as not in cores
                    yield Error(other, f"{name}+anchor", float(moved[n] - logs[n]), row.model, new_core)

    for f in sorted(set(order)):
        yield from cell("same", everything[order != f], everything[order == f], lambda i: True)
    for f in sorted(set(models)):
        yield from cell("model", everything[models != f], everything[models == f], lambda i: True)
    for f in sorted(set(devices)):
        yield from cell("device", everything[devices != f], everything[devices == f], lambda i: True)
        for g in sorted(set(models)):
            here = everything[devices == f]
            if (models[here] == g).any():
                train = everything[(devices != f) & (models != g)]
                yield from cell("both", train, here, lambda i, g=g: bool(models[i] == g))  # type: ignore[misc]


def quantile(errors: Sequence[float], coverage: float = 0.9) -> float:
    """The conformal quantile of |error|: of n errors the ceil((n + 1) · coverage)-th smallest.

    >>> quantile([0.1] * 50 + [0.4] * 50)
    0.4
    """
    ordered = sorted(abs(e) for e in errors)
    rank = min(len(ordered), int(np.ceil((len(ordered) + 1) * coverage)))
    return float(ordered[rank - 1])


def widths(met: Iterable[Error], kind: str) -> tuple[dict[str, float], dict[str, int]]:
    """Quantiles of one fit's errors by kind|precision|cell, by family, and by whether the core is known; and how many.

    Where fewer than FEW errors are known of all runtimes together there are none; a family's own come with their
    number, for `cost_model.half_width` to judge.
    """
    found: dict[str, list[Error]] = {}
    for error in met:
        row = error.row
        if kind_of(row.family, row.precision, row.threads) == kind:
            found.setdefault(f"{kind}|{row.precision}|{error.cell}", []).append(error)
    table: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, errors in found.items():
        if len(errors) < FEW:
            continue
        parts = {"": list(errors)}
        for error in errors:
            parts.setdefault(f"|{error.row.family}", []).append(error)
        for label, new in (("|known core", False), ("|new core", True)):
            part = [error for error in errors if error.new_core == new]
            parts |= {label: part} if len(part) >= FEW else {}
        for label, part in parts.items():
            table[name + label], counts[name + label] = quantile([error.error for error in part]), len(part)
    return table, counts


def typical_errors(met: Iterable[Error], kind: str) -> dict[str, float]:
    """Mean absolute percentage errors of one fit, by kind|precision|cell and by runtime family within it."""
    found: dict[str, list[float]] = {}
    for error in met:
        row = error.row
        if kind_of(row.family, row.precision, row.threads) == kind:
            name = f"{kind}|{row.precision}|{error.cell}"
            for part in (name, f"{name}|{row.family}"):
                found.setdefault(part, []).append(abs(float(np.expm1(error.error))))
    return {name: float(np.mean(errors)) for name, errors in found.items()}
