"""How wrong the simulator is on what it was not told: `python -m bench.latency [--all] [--write]`.

Every published latency is predicted by a fit that never saw its model, its device, or either. Groups are left out
whole, so no device, model or publication leaks. Cells: *model* = the device is calibrated with this runtime, the
model is new; *device* = from specifications alone, or with one anchor (each of a few common models in turn); *both*.
An interval's width comes from errors that never saw what is new in the cell; its coverage and the ratio of its ends are
counted here, and `bench.latency_nested` counts them through the shipped path.

Baselines, fitted and left out in the same way: MACs × a constant of the place; a constant for each class of operator;
classes with activation and weight traffic (least squares on relative errors, not negative).
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType

import numpy as np

from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.calibration import FOLDS, LEVELS, load_rows, rows_of
from idp_deploy.simulation.fitting import ANCHORS, Row
from idp_deploy.simulation.holdouts import CELLS, Error, held_out, width
from idp_deploy.simulation.targets import folder, load_cores
from idp_deploy.simulation.work import OP_CLASSES

RESULTS = Path(__file__).parent / "results"
WANTED = {"model": 0.07, "device": 0.11, "device+anchor": 0.07, "both+anchor": 0.09}  # MAPE, float32, one thread
NAMES = {
    "same": "device and model seen, row left out",
    "model": "unseen model, calibrated device",
    "device": "unseen device, specification only",
    "both": "unseen device and model, specification only",
    "device+anchor": "unseen device, one anchor",
    "both+anchor": "unseen device and model, one anchor",
}


def main(arguments: Sequence[str]) -> int:
    """Print the tables; with --write also commit them as results/latency-<date>.json."""
    rows = load_rows(folder(), load_cores())
    single = rows_of(rows, "single")
    report: dict[str, object] = {"command": "python -m bench.latency " + " ".join(arguments), "rows": len(single)}
    report["float32, one thread"] = table("float32, one CPU thread", errors_of(rows, "single"), limits=WANTED)
    report["baselines"] = baselines(single)
    report["siblings"] = siblings(rows)
    if "--all" in arguments:
        errors = errors_of(rows, "cpu")
        for kind in ("coreml-cpu", "accelerator"):
            report[kind] = table(kind, errors_of(rows, kind))
        for precision in ("float32", "float16", "int8"):
            for threads, name in (((1,), "one thread"), ((2, 4), "2 and 4 threads"), ((6, 8, 12), "6 to 12 threads")):
                chosen = [e for e in errors if e.row.precision.startswith(precision) and e.row.threads in threads]
                if chosen:
                    report[f"{precision}, {name}"] = table(f"{precision}, {name}", chosen, errors)
    if "--write" in arguments:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"latency-{date.today().isoformat()}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"wrote {path}")
    return 0


def errors_of(rows: Sequence[Row], kind: str) -> list[Error]:
    """The held-out errors of the rows for which a fit speaks."""
    return [
        error for error in held_out(rows_of(rows, kind), LEVELS[kind], *FOLDS[kind]) if error.row.kind_alone == kind
    ]


def table(
    title: str,
    errors: Sequence[Error],
    everyone: Sequence[Error] = (),
    limits: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, dict[str, object]]:
    """MAPE, share within ±10 %, coverage and the median of upper over lower end by cell, then by runtime family.

    Args:
        everyone: errors of the whole fit, which thin situations mix with.
    """
    print(f"\n{title}\n{'cell':46s} {'n':>5s} {'MAPE':>6s} {'by device':>9s} {'±10 %':>6s} {'covers':>7s} "
          f"{'up/low':>6s} {'wanted':>7s}")  # fmt: skip
    found: dict[str, dict[str, object]] = {}
    for cell in CELLS:
        met = [error for error in errors if error.cell == cell]
        if not met:
            continue
        halves = half_widths(met, [error for error in everyone or errors if error.cell == cell])
        covered = [abs(error.error) <= half for error, half in zip(met, halves, strict=True)]
        ends = np.exp(2 * halves)
        row = {**summary([(e.error, e.row.device) for e in met]), "coverage": float(np.mean(covered)),
               "upper_over_lower": float(np.median(ends))}  # fmt: skip
        wanted = f"{limits[cell]:.0%}" if cell in limits else ""
        print(f"{NAMES[cell]:46s} {row['n']:5.0f} {row['mape']:6.1%} {row['mape_by_device']:9.1%} "
              f"{row['within_10']:6.0%} {row['coverage']:7.0%} "
              f"{row['upper_over_lower']:6.2f} {wanted:>7s}")  # fmt: skip
        families: dict[str, list[int]] = defaultdict(list)
        for index, error in enumerate(met):
            families[error.row.family].append(index)
        by_family = {}
        for family, indices in sorted(families.items()):
            part = summary([(met[i].error, met[i].row.device) for i in indices])
            by_family[family] = {**part, "coverage": float(np.mean([covered[i] for i in indices])),
                                 "upper_over_lower": float(np.median(ends[indices]))}  # fmt: skip
            print(f"    {family:42s} {part['n']:5.0f} {part['mape']:6.1%} {part['mape_by_device']:9.1%} "
                  f"{part['within_10']:6.0%} {by_family[family]['coverage']:7.0%} "
                  f"{by_family[family]['upper_over_lower']:6.2f}")  # fmt: skip
        found[cell] = {**row, "families": by_family}
    return found


def summary(errors: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Of log errors with their devices: mean absolute percentage error over rows and over devices, share in ±10 %."""
    relative = np.abs(np.expm1([error for error, _ in errors]))
    devices: dict[str, list[float]] = defaultdict(list)
    for value, (_, device) in zip(relative, errors, strict=True):
        devices[device].append(float(value))
    return {
        "n": len(errors),
        "mape": float(relative.mean()),
        "mape_by_device": float(np.mean([np.mean(values) for values in devices.values()])),
        "within_10": float((relative <= 0.1).mean()),
    }


def half_widths(met: Sequence[Error], everyone: Sequence[Error]) -> np.ndarray:
    """Of each row's 90 % interval, in log, from errors that share nothing with what is new in it.

    A new model's width comes from the errors on all other models, a new device's from all other devices; see
    `holdouts.width` for how a situation's own errors and everyone's mix.  → (errors,)
    """
    memory: dict[tuple[str, str, str], float] = {}
    found = []
    for error in met:
        key = (error.situation, error.row.device, error.row.network)
        if key not in memory:
            others = [e for e in everyone if _apart(e, error)]
            own = [e for e in others if e.situation == key[0]]
            memory[key] = width(own, [e for e in others if e.situation != key[0]])
        found.append(memory[key] * error.spread)
    return np.array(found)


def _apart(one: Error, other: Error) -> bool:
    new_device, new_model = one.row.device != other.row.device, one.row.network != other.row.network
    known = {"same": new_device or new_model, "model": new_model, "device": new_device}
    return known.get(one.cell.partition("+")[0], new_device and new_model)


def siblings(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """How far devices with the same core lie apart: what is left for a prediction that knows all but the device.

    A row is told by another device's row of the same core, runtime, arithmetic, threads and network: scaled by the
    clocks (a specification), or by what one other network took on both (an anchor).
    """
    print("\ntwo devices with the same core, runtime and network")
    places: dict[tuple[str, str, str, int, str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.core.kind == "cpu":
            places[row.family, row.core.name, row.precision, row.threads, row.device, row.group][row.model] = row
    errors: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for here, its in places.items():
        for there, theirs in places.items():
            both = sorted(its.keys() & theirs.keys())
            if here[:4] != there[:4] or here[4] == there[4] or len(both) < 3:
                continue
            situation = f"{here[2].partition('-')[0]}, {'one thread' if here[3] == 1 else 'threads'}"
            off = {
                m: math.log(theirs[m].latency_ms * theirs[m].core.ghz / its[m].latency_ms / its[m].core.ghz)
                for m in both
            }
            errors[f"{situation}, by the clocks"] += [(error, here[4]) for error in off.values()]
            for anchor in (m for m in both if its[m].network in ANCHORS):
                errors[f"{situation}, one anchor"] += [(off[m] - off[anchor], here[4]) for m in both if m != anchor]
    found = {name: summary(met) for name, met in sorted(errors.items())}
    for name, line in found.items():
        print(f"{name:46s} {line['n']:5.0f} {line['mape']:6.1%} {line['mape_by_device']:9.1%} {line['within_10']:6.0%}")
    return found


# ── baselines ───────────────────────────────────────────────────────────────────────────────────────────────────────

Features = Callable[[str], np.ndarray]


def total_macs(model: str) -> np.ndarray:
    """→ (1,)"""
    return np.array([architecture(model).macs], float)


def class_macs(model: str) -> np.ndarray:
    """MACs of every class that has some, and the number of operators.  → (5,)"""
    work = architecture(model)
    macs = [float(sum(op.macs for op in work.ops if op.op_class == name)) for name in OP_CLASSES[:4]]
    return np.array([*macs, len(work.ops)], float)


def class_macs_and_traffic(model: str) -> np.ndarray:
    """→ (7,)"""
    work = architecture(model)
    traffic = [sum(op.activation_bytes for op in work.ops), work.resident_bytes]
    return np.array([*class_macs(model), *traffic], float)


def least_squares(features: Features, rows: Sequence[Row]) -> np.ndarray:
    """Costs ≥ 0 that minimize the relative error."""
    from scipy.optimize import nnls

    matrix = np.array([features(row.model) / row.latency_ms for row in rows])
    scale = np.maximum(matrix.max(0), 1e-30)
    return nnls(matrix / scale, np.ones(len(rows)))[0] / scale


def baselines(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The same cells for three simpler models."""
    print("\nbaselines, float32, one CPU thread")
    places: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        places[row.place].append(row)
    found = {}
    for name, features in (("MACs × constant", total_macs), ("constant per operator class", class_macs),
                           ("operator classes and traffic", class_macs_and_traffic)):  # fmt: skip
        for cell, errors in (
            ("unseen model", _unseen_model(features, places.values())),
            ("unseen device, one anchor", _unseen_device(features, rows, False)),
            ("unseen device and model, one anchor", _unseen_device(features, rows, True)),
        ):
            found[f"{name}, {cell}"] = line = summary(errors)
            print(f"{name + ', ' + cell:70s} {line['n']:5.0f} {line['mape']:6.1%} {line['within_10']:6.0%}")
    return found


def _unseen_model(features: Features, places: Iterable[Sequence[Row]]) -> list[tuple[float, str]]:
    errors = []
    for rows in places:
        for row in rows:
            others = [other for other in rows if other.model != row.model]
            if others:
                predicted = float(features(row.model) @ least_squares(features, others))
                errors.append((float(np.log(max(predicted, 1e-9) / row.latency_ms)), row.device))
    return errors


def _unseen_device(features: Features, rows: Sequence[Row], new_model: bool) -> list[tuple[float, str]]:
    """Costs from the same family on other devices, scaled by one anchor."""
    errors = []
    for row in rows:
        others = [o for o in rows if o.family == row.family and o.device != row.device
                  and not (new_model and o.model == row.model)]  # fmt: skip
        anchors = [a for a in rows if a.place == row.place and a.model in ANCHORS and a.model != row.model]
        if len(others) < 2 or not anchors:
            continue
        costs = least_squares(features, others)
        for anchor in anchors:
            at_anchor = max(float(features(anchor.model) @ costs), 1e-9)
            predicted = max(float(features(row.model) @ costs), 1e-9) * anchor.latency_ms / at_anchor
            errors.append((float(np.log(predicted / row.latency_ms)), row.device))
    return errors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
