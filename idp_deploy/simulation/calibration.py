"""Find the coefficients of the cost model in the published measurements: `python -m idp_deploy.simulation.calibration`.

The effects of `cost_model` are Gaussian with the standard deviations below, so the most probable coefficients are a
Gaussian process over situations whose kernel is (a² + b² · shareᵢ·shareⱼ) summed over the effects that two rows have
in common; a share is the part of a row's time spent in each term. The exponential makes it nonlinear: a dozen
re-linearizations, with weights that make an outlier count less and every device count the same.

Errors are those met on groups left out entirely: models, devices, both.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from idp_deploy.files import write_bytes
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.cost_model import (
    PRIOR_MEAN,
    PRIOR_SHIFT,
    TERM_FREEDOM,
    TERMS,
    Core,
    Effect,
    at_peak,
    effects_of,
    kind_of,
    precision_of,
)
from idp_deploy.simulation.work import Workload, as_dtype, with_zeros

# level → standard deviation of what an effect changes in all terms alike, and in each term by itself
CPU_LEVELS = {
    "all": (0.3, 0.4), "family": (0.4, 0.12), "core": (0.4, 0.4), "family-core": (0.2, 0.1), "device": (0.06, 0.04),
    "group": (0.06, 0.08), "precision": (0.5, 0.4), "family-precision": (0.2, 0.2), "core-precision": (0.15, 0.1),
    "threads": (0.2, 0.2), "device-threads": (0.15, 0.1), "family-threads": (0.1, 0.1),
}  # fmt: skip
ACCELERATOR_LEVELS = CPU_LEVELS | {"all": (1.0, 1.0), "family": (1.0, 1.0), "core": (0.5, 0.4)}
LEVELS = {"single": CPU_LEVELS, "cpu": CPU_LEVELS, "coreml-cpu": ACCELERATOR_LEVELS, "accelerator": ACCELERATOR_LEVELS}
NOISE = 0.08
PRIOR = np.array([PRIOR_MEAN[term] for term in TERMS])
FREEDOM = np.array([TERM_FREEDOM[term] for term in TERMS])
ROBUST = 2.5  # residuals beyond this many NOISE are weighted down
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
        core = self.core.calibrated_as
        return effects_of(self.kind, self.family, core, self.device, self.group, self.precision, self.threads)

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What one anchor is good for: the same device, core, runtime and publication."""
        return (self.family, self.device, self.core.name, self.group)


@dataclass(frozen=True, eq=False)
class Fit:
    """The most probable effects, and what is needed to predict another row."""

    rows: Sequence[Row]
    levels: dict[str, tuple[float, float]]
    shares: np.ndarray  # (rows, terms)
    weights: np.ndarray  # α of the Gaussian process
    spread: np.ndarray  # K + noise, (rows, rows)

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


def load_rows(folder: Path, cores: dict[str, Core]) -> list[Row]:
    """Every dense row of `measurements/published.csv`."""
    rows = []
    with (folder / "measurements" / "published.csv").open(newline="") as handle:
        for line in csv.DictReader(handle):
            if line["sparsity"] != "0":
                continue
            core = replace(cores[line["core"]], ghz=float(line["ghz"] or 1.0))
            work = architecture(line["model"])
            if line["precision"] != "float32":
                work = as_dtype(work, line["precision"])
            precision = precision_of(line["precision"], core)
            kind = kind_of(line["family"], precision, int(line["threads"]))
            rows.append(
                Row(
                    device=line["device"], core=core, family=line["family"], group=line["source"].split("@")[0],
                    model=line["model"], precision=precision, threads=int(line["threads"]),
                    latency_ms=float(line["latency_ms"]), peak_ms=at_peak(work, line["family"], core).sum(0), kind=kind,
                )
            )  # fmt: skip
    return rows


Parts = tuple[np.ndarray, np.ndarray]  # kernel in common and per term


def overlaps(rows: Sequence[Row], levels: dict[str, tuple[float, float]]) -> Parts:
    """What every pair of rows has in common.  → (rows, rows) twice"""
    common, each = np.zeros((2, len(rows), len(rows)))
    for level, (a, b) in levels.items():
        ids: dict[str, int] = {}
        which, times = np.full(len(rows), -1), np.zeros(len(rows))
        for i, row in enumerate(rows):
            for name, identity, z in row.effects:
                if name == level:
                    which[i], times[i] = ids.setdefault(identity, len(ids)), z
        same = (which[:, None] == which[None, :]) * np.outer(times, times)
        common += a**2 * same
        each += b**2 * same
    return common, each


def fit(rows: Sequence[Row], levels: dict[str, tuple[float, float]], parts: Parts | None = None) -> Fit:
    """The most probable effects of all rows together."""
    from scipy.linalg import solve

    common, each = parts or overlaps(rows, levels)
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


def predict(model: Fit, rows: Sequence[Row], cross: Parts, own: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Log latency of other rows, and its covariance.  → (rows,), (rows, rows)"""
    c = np.array([prior(row) for row in rows]) + (cross[0] @ model.weights)[:, None]
    c += cross[1] @ (model.weights[:, None] * model.shares * FREEDOM**2)
    times = np.array([row.peak_ms for row in rows]) * np.exp(c)
    totals = times.sum(1)
    shares = times / totals[:, None]
    between = cross[0] + cross[1] * ((shares * FREEDOM**2) @ model.shares.T)
    before = own[0] + own[1] * ((shares * FREEDOM**2) @ shares.T)
    return np.log(totals), before - between @ np.linalg.solve(model.spread, between.T)


def anchored(mean: np.ndarray, covariance: np.ndarray, anchor: int, latency_ms: float) -> np.ndarray:
    """Predictions after one of the rows was measured."""
    gain = covariance[:, anchor] / (covariance[anchor, anchor] + NOISE**2)
    return mean + gain * (math.log(latency_ms) - mean[anchor])


def sparse_penalties(
    folder: Path, cores: dict[str, Core], effects: dict[tuple[str, str], np.ndarray]
) -> dict[str, float]:
    """Cost of a non-zero weight run sparse over one run dense, by class of core.

    The values that come nearest, in log, to the speed-ups of `measurements/sparse_speedups.csv`.
    """
    from scipy.optimize import minimize_scalar

    cases: dict[str, list[Callable[[float], float]]] = {}
    with (folder / "measurements" / "sparse_speedups.csv").open(newline="") as handle:
        for line in csv.DictReader(handle):
            core = replace(cores[line["core"]], ghz=float(line["ghz"]))
            dense = architecture(line["model"])
            found = [
                e
                for e in effects_of("single", line["family"], core.calibrated_as, "", "", "float32", 1)
                if e[:2] in effects
            ]
            cost = np.exp(PRIOR + sum((effects[e[:2]] for e in found), np.zeros(len(TERMS))))

            def miss(
                penalty: float,
                line: dict[str, str] = line,
                core: Core = core,
                dense: Workload = dense,
                cost: np.ndarray = cost,
            ) -> float:
                sparse = with_zeros(dense, float(line["zeros"]))
                times = [(at_peak(work, line["family"], core, penalty) @ cost).sum() for work in (dense, sparse)]
                return float((np.log(times[0] / times[1]) - math.log(float(line["speedup"]))) ** 2)

            cases.setdefault(core.sparse_class, []).append(miss)
    return {
        name: round(float(minimize_scalar(lambda p, all=misses: sum(m(p) for m in all), bounds=(0.5, 10)).x), 4)
        for name, misses in sorted(cases.items())
    }


def rows_of(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows a fit is made of: its own, and for "cpu" the single-threaded float32 ones as well."""
    kinds = {"single", "cpu"} if kind == "cpu" else {kind}
    return [replace(row, kind=kind) for row in rows if row.kind in kinds]


def clocks(rows: Sequence[Row]) -> dict[str, float]:
    """GHz at which a device was measured, by family, device, core and publication."""
    found = {row.effects[5][1].partition("/")[2]: row.core.ghz for row in rows if row.core.kind == "cpu"}
    return dict(sorted(found.items()))


def main() -> None:
    """Fit, hold out, and write `coefficients.json` beside the measurements."""
    from idp_deploy.simulation.evidence import counted
    from idp_deploy.simulation.holdouts import held_out, typical_errors, widths
    from idp_deploy.simulation.targets import folder, load_cores

    rows = load_rows(folder(), load_cores())
    effects: dict[tuple[str, str], np.ndarray] = {}
    error: dict[str, float] = {}
    counts: dict[str, int] = {}
    typical: dict[str, float] = {}
    for kind, levels in LEVELS.items():
        chosen = rows_of(rows, kind)
        effects |= fit(chosen, levels).effects()
        met = list(held_out(chosen, levels))
        found, behind = widths(met, kind)
        error, counts, typical = error | found, counts | behind, typical | typical_errors(met, kind)
    record = {
        "command": "python -m idp_deploy.simulation.calibration",
        "terms": TERMS,
        "noise": NOISE,
        "levels": LEVELS,
        "error": {name: round(error[name], 6) for name in sorted(error)},
        "held_out": dict(sorted(counts.items())),
        "typical": {name: round(typical[name], 4) for name in sorted(typical)},
        "rows": counted(rows),
        "clocks": clocks(rows),
        "models": {name: architecture(name).macs for name in sorted({row.model for row in rows})},
        "sparse_penalty": sparse_penalties(folder(), load_cores(), effects),
        "effects": {":".join(key): [round(float(x), 6) for x in effects[key]] for key in sorted(effects)},
    }
    write_bytes(folder() / "coefficients.json", (_lines(record) + "\n").encode())


def _lines(record: dict[str, object]) -> str:
    """JSON with one row a line, so that a refit shows as a readable difference."""
    parts = []
    for key, value in record.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f"{json.dumps(key)}: {{\n{inner}\n}}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}"


if __name__ == "__main__":
    main()
