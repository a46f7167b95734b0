"""The shipped path on groups it never saw, intervals included: `python -m bench.latency_nested [--write]`.

`bench.latency` takes an interval's width from errors of other groups, made by fits that knew this one. Here a group (a
fold of models, a device, both) leaves everything: a fit and the widths of its intervals are found from the other rows
alone, and `simulate` answers for the group with those, from a description, as it would for a reader of this. Minutes.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from bench.latency import NAMES, RESULTS
from idp_deploy.flow import Interval
from idp_deploy.simulation import simulate
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.calibration import LEVELS, clocks, load_rows, rows_of
from idp_deploy.simulation.cost_model import Coefficients, load_coefficients
from idp_deploy.simulation.evidence import counted
from idp_deploy.simulation.fitting import ANCHORS, Row, fit
from idp_deploy.simulation.holdouts import fold, held_out, typical_errors, widths
from idp_deploy.simulation.targets import CoreGroup, Runtime, Target, folder, load_cores

KIND = "single"  # float32 on one core
FOLDS = 10


@dataclass(frozen=True)
class Met:
    """A published latency beside the interval that `simulate` gave for it."""

    cell: str
    row: Row
    interval: Interval

    @property
    def off(self) -> float:
        """Relative error of the middle."""
        return abs(self.interval.middle / self.row.latency_ms - 1)

    @property
    def covered(self) -> bool:
        """Whether the published latency lies in the interval."""
        return self.interval.low <= self.row.latency_ms <= self.interval.high


def main(arguments: Sequence[str]) -> int:
    """Print the table; with --write also commit it as results/latency_nested-<date>.json."""
    rows = rows_of(load_rows(folder(), load_cores()), KIND)
    with tempfile.TemporaryDirectory() as directory:
        met = list(every_cell(rows, Path(directory)))
    report = {"command": "python -m bench.latency_nested", "rows": len(rows), "cells": table(met)}
    if "--write" in arguments:
        path = RESULTS / f"latency_nested-{date.today().isoformat()}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"wrote {path}")
    return 0


def every_cell(rows: Sequence[Row], directory: Path) -> Iterator[Met]:
    """Every row predicted in every cell it can be in."""
    folds = {row.model: fold(row.model, FOLDS) for row in rows}
    for out in sorted(set(folds.values())):
        train = [row for row in rows if folds[row.model] != out]
        known = {row.place for row in train}
        model = calibrated(train)
        for row in rows:
            if folds[row.model] == out and row.place in known:
                yield Met("model", row, predicted(row, model, directory, calibrated_device=True))
    for device in sorted({row.device for row in rows}):
        here = [row for row in rows if row.device == device]
        for left in (None, *sorted({folds[row.model] for row in here})):
            model = calibrated([r for r in rows if r.device != device and (left is None or folds[r.model] != left)])
            cell = "device" if left is None else "both"
            for row in here:
                if left is not None and folds[row.model] != left:
                    continue
                yield Met(cell, row, predicted(row, model, directory))
                for other in here:
                    usable = other.place == row.place and other.model in ANCHORS and other.model != row.model
                    if usable and (left is None or folds[other.model] != left):
                        anchor = {other.model: other.latency_ms}
                        yield Met(f"{cell}+anchor", row, predicted(row, model, directory, anchor))


def calibrated(train: Sequence[Row]) -> Coefficients:
    """What `make calibrate` would have found in these rows alone."""
    met, found = list(held_out(train, LEVELS[KIND])), fit(train, LEVELS[KIND])
    return replace(
        load_coefficients(folder() / "coefficients.json"),
        effects=found.effects(),
        known=found.known,
        error=widths(met),
        typical=typical_errors(met),
        rows=counted(train),
        models={row.model: architecture(row.model).macs for row in train},
        clocks=clocks(train),
    )


def predicted(
    row: Row,
    model: Coefficients,
    directory: Path,
    anchor: dict[str, float] | None = None,
    calibrated_device: bool = False,
) -> Interval:
    """The answer of `simulate` for a device that is nothing but this core at its clock."""
    target = Target(
        name="unseen",
        device=row.device,
        soc="",
        cores=(CoreGroup(type=row.core.name, count=1, ghz=row.core.ghz),),
        runtimes=(Runtime(name="its", format="tflite", family=row.family, core=row.core.name),),
        sources=("specification",),
        confidence="specification",
        measured_as=row.device if calibrated_device else "",
    )
    path = directory / "work.toml"
    path.write_text(f'architecture = "{row.model}"\n')
    found = simulate(path, target, anchor=anchor, coefficients=model).latency_ms
    assert found is not None
    return found


def table(met: Sequence[Met]) -> dict[str, dict[str, float]]:
    """MAPE, coverage and the median half-width by cell and by runtime family within it."""
    print(f"{'cell':46s} {'n':>5s} {'MAPE':>6s} {'covers':>7s} {'width':>6s}")
    found = {}
    for cell in dict.fromkeys(m.cell for m in met):
        chosen = [m for m in met if m.cell == cell]
        for family in ("", *sorted({m.row.family for m in chosen})):
            part = [m for m in chosen if m.row.family == family or not family]
            width = float(np.median([math.log(m.interval.high / m.interval.middle) for m in part]))
            line = {"n": len(part), "mape": float(np.mean([m.off for m in part])),
                    "coverage": float(np.mean([m.covered for m in part])), "width": width}  # fmt: skip
            found[f"{cell}|{family}" if family else cell] = line
            print(f"{'    ' + family if family else NAMES[cell]:46s} {line['n']:5.0f} {line['mape']:6.1%} "
                  f"{line['coverage']:7.0%} {'±':>1s}{math.expm1(width):5.0%}")  # fmt: skip
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
