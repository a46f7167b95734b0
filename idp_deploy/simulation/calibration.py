"""Find the coefficients of the cost model in the published measurements: `python -m idp_deploy.simulation.calibration`.

The rows of the measurements, fitted (`fitting`), held out (`holdouts`) and written down as `coefficients.json`.

Errors are those met on groups left out entirely: models, devices, both.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from idp_deploy.files import write_bytes
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.cost_model import TERMS, Core, at_peak, effects_of, kind_of, precision_of
from idp_deploy.simulation.evidence import counted
from idp_deploy.simulation.fitting import NOISE, PRIOR, Row, fit
from idp_deploy.simulation.holdouts import held_out, typical_errors, widths
from idp_deploy.simulation.targets import folder, load_cores, shipped
from idp_deploy.simulation.uncertainty import Levels
from idp_deploy.simulation.work import Workload, as_dtype, with_zeros

# level → standard deviation of what an effect changes in all terms alike, and in each term by itself
SINGLE_LEVELS = {
    "all": (0.19, 0.83), "family": (0.25, 0.1), "core": (1.02, 0.4), "family-core": (0.1, 0.16), "device": (0.04, 0.04),
    "group": (0.15, 0.06),
}  # fmt: skip
CPU_LEVELS = {
    "all": (0.12, 0.3), "family": (0.15, 0.05), "core": (0.64, 0.25), "family-core": (0.25, 0.06),
    "device": (0.06, 0.04), "group": (0.15, 0.06), "precision": (1.5, 0.25), "family-precision": (0.13, 0.5),
    "core-precision": (0.15, 0.1), "device-precision": (0.05, 0.05), "threads": (1.0, 0.3),
    "threads-memory": (0.05, 0.4), "threads-width": (0.1, 0.2), "device-threads": (0.15, 0.1),
    "family-threads": (0.06, 0.16),
}  # fmt: skip
ACCELERATOR_LEVELS = {
    "all": (1.0, 1.0), "family": (1.0, 1.0), "core": (0.5, 0.4), "family-core": (0.2, 0.1), "device": (0.06, 0.04),
    "group": (0.06, 0.08), "precision": (0.5, 0.4), "family-precision": (0.2, 0.2), "core-precision": (0.15, 0.1),
    "device-precision": (0.1, 0.05),
}  # fmt: skip
LEVELS: dict[str, Levels] = {
    "single": SINGLE_LEVELS, "cpu": CPU_LEVELS, "coreml-cpu": ACCELERATOR_LEVELS, "accelerator": ACCELERATOR_LEVELS,
}  # fmt: skip
# models left out together, and devices (0: each by itself): folds, fewer where a fit takes long
FOLDS = {"single": (40, 0), "cpu": (20, 6), "coreml-cpu": (20, 0), "accelerator": (20, 0)}


def load_rows(folder: Path, cores: dict[str, Core]) -> list[Row]:
    """Every dense row of `measurements/published.csv`."""
    rows = []
    devices = {target.measured_as: target for target in shipped(folder)}
    for line in _lines_of(folder / "measurements" / "published.csv"):
        if line["sparsity"] != "0":
            continue
        core = replace(cores[line["core"]], ghz=float(line["ghz"] or 1.0))
        if line["device"] in devices:
            core = devices[line["device"]].using(core, int(line["threads"]))
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


def sparse_penalties(
    folder: Path, cores: dict[str, Core], effects: dict[tuple[str, str], np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Cost of a non-zero weight run sparse over one run dense, and how far speed-ups lie from it.

    By class of core, and by class|runtime where a runtime (a build of it) has two speed-ups or more of its own.

    The values that come nearest, in log, to the speed-ups of `measurements/sparse_speedups.csv`; the distance is the
    root of the mean square, with one degree of freedom taken.
    """
    from scipy.optimize import minimize_scalar

    cases: dict[str, list[Callable[[float], float]]] = {}
    for line in _lines_of(folder / "measurements" / "sparse_speedups.csv"):
        core = replace(cores[line["core"]], ghz=float(line["ghz"]))
        dense = architecture(line["model"])
        told = [e for e in effects_of("single", line["family"], core, "", "", "float32", 1) if e[:2] in effects]
        cost = np.exp(PRIOR + sum((effects[e[:2]] for e in told), np.zeros(len(TERMS))))

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

        for name in (core.sparse_class, f"{core.sparse_class}|{line['family']}"):
            cases.setdefault(name, []).append(miss)
    found: dict[str, tuple[float, float]] = {}
    for name, misses in sorted(cases.items()):
        own = "|" in name
        if own and len(misses) < 2:
            continue
        best = minimize_scalar(lambda p, all=misses: sum(m(p) for m in all), bounds=(0.5, 10))
        spread = math.sqrt(float(best.fun) / max(1, len(misses) - 1))
        spread = found[name.partition("|")[0]][1] if own else spread  # of a handful that lie together by chance
        found[name] = (round(float(best.x), 4), round(spread, 4))
    return found


def little_too(folder: Path) -> float:
    """How far runs over big and little cores together lie from runs on the big ones alone: |log|, nine in ten devices'.

    From `measurements/big_and_little.csv` beside the same networks with as many threads as there are big cores.
    """
    alone: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for line in _lines_of(folder / "measurements" / "published.csv"):
        key = (line["device"], line["core"], line["model"], line["precision"])
        alone.setdefault(key, []).append((int(line["threads"]), float(line["latency_ms"])))
    ratios: dict[str, list[float]] = {}
    for line in _lines_of(folder / "measurements" / "big_and_little.csv"):
        most, latency_ms = max(alone.get((line["device"], line["core"], line["model"], line["precision"]), [(0, 0.0)]))
        if most > 1:
            ratios.setdefault(line["device"], []).append(abs(math.log(float(line["latency_ms"]) / latency_ms)))
    return round(float(np.quantile([np.quantile(found, 0.9) for found in ratios.values()], 0.9)), 3)


def _lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


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
    rows = load_rows(folder(), load_cores())
    effects: dict[tuple[str, str], np.ndarray] = {}
    error: dict[str, float] = {}
    typical: dict[str, float] = {}
    known: dict[tuple[str, str], np.ndarray] = {}
    for kind, levels in LEVELS.items():
        chosen = rows_of(rows, kind)
        model = fit(chosen, levels)
        effects, known = effects | model.effects(), known | model.known
        met = [error for error in held_out(chosen, levels, *FOLDS[kind]) if error.row.kind_alone == kind]
        error, typical = error | widths(met), typical | typical_errors(met)
    record = {
        "command": "python -m idp_deploy.simulation.calibration",
        "terms": TERMS,
        "noise": NOISE,
        "levels": LEVELS,
        "error": {name: round(error[name], 4) for name in sorted(error)},
        "typical": {name: round(typical[name], 4) for name in sorted(typical)},
        "rows": counted(rows),
        "clocks": clocks(rows),
        "models": {name: architecture(name).macs for name in sorted({row.model for row in rows})},
        "little_too": little_too(folder()),
        "sparse_penalty": sparse_penalties(folder(), load_cores(), effects),
        "effects": {":".join(key): [round(float(x), 4) for x in effects[key]] for key in sorted(effects)},
        "known": {":".join(key): [round(float(x), 3) for x in known[key]] for key in sorted(known)},
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
