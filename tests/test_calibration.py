"""The committed coefficients come from the committed measurements, and the held-out errors are what they claim."""

from __future__ import annotations

import json

import numpy as np
import pytest

from idp_deploy.simulation.calibration import LEVELS, Row, fit, load_rows, rows_of, sparse_penalties
from idp_deploy.simulation.cost_model import TERMS, kind_of, load_coefficients
from idp_deploy.simulation.holdouts import Error, held_out, quantile
from idp_deploy.simulation.targets import folder, load_cores

COMMITTED = json.loads((folder() / "coefficients.json").read_text())


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return load_rows(folder(), load_cores())


@pytest.fixture(scope="module")
def errors(rows: list[Row]) -> list[Error]:
    return list(held_out(rows_of(rows, "single"), LEVELS["single"]))


@pytest.mark.parametrize("kind", ["single", "coreml-cpu", "accelerator"])
def test_a_refit_gives_the_committed_numbers(kind: str, rows: list[Row]) -> None:
    found = fit(rows_of(rows, kind), LEVELS[kind]).effects()
    committed = {key: row for key, row in COMMITTED["effects"].items() if key.split(":", 1)[1].startswith(f"{kind}/")}
    assert {":".join(key) for key in found} == set(committed)
    for key, row in found.items():
        assert row == pytest.approx(committed[":".join(key)], abs=1e-4)


def test_the_sparse_penalties_refit() -> None:
    model = load_coefficients(folder() / "coefficients.json")
    assert sparse_penalties(folder(), load_cores(), dict(model.effects)) == pytest.approx(
        COMMITTED["sparse_penalty"], abs=1e-3
    )
    assert COMMITTED["sparse_penalty"]["in-order"] > 4 > COMMITTED["sparse_penalty"]["out-of-order"]


def test_a_fit_explains_what_it_was_told(rows: list[Row]) -> None:
    chosen = rows_of(rows, "single")
    found = fit(chosen, LEVELS["single"]).effects()
    start = load_coefficients(folder() / "coefficients.json").prior
    misses = []
    for row in chosen:
        cost = start + sum((times * found[level, name] for level, name, times in row.effects), np.zeros(len(TERMS)))
        misses.append(abs(float(row.peak_ms @ np.exp(cost)) / row.latency_ms - 1))
    assert np.mean(misses) < 0.08


WANTED = {"model": 0.12, "device": 0.25, "device+anchor": 0.12, "both+anchor": 0.15}


@pytest.mark.parametrize("cell", WANTED)
def test_held_out_errors_stay_below_what_is_promised(cell: str, errors: list[Error]) -> None:
    met = [error.error for error in errors if error.cell == cell]
    assert len(met) > 150
    assert np.abs(np.expm1(met)).mean() < WANTED[cell]


def test_nothing_leaks_into_a_held_out_prediction(rows: list[Row]) -> None:
    """A measurement that is left out may say anything: the prediction of its row does not move."""
    from dataclasses import replace

    chosen = rows_of(rows, "single")
    victim = next(row for row in chosen if row.family == "xnnpack")
    changed = [
        replace(row, latency_ms=row.latency_ms * 3)
        if row.device == victim.device and row.model == victim.model
        else row
        for row in chosen
    ]

    def predicted(rows: list[Row], cell: str) -> dict[str, float]:
        return {
            f"{e.row.place}{e.row.model}": e.error + np.log(e.row.latency_ms)
            for e in held_out(rows, LEVELS["single"], folds=4)
            if e.cell == cell and e.row.device == victim.device and e.row.model == victim.model
        }

    for cell in ("model", "device", "both"):
        assert predicted(changed, cell) == pytest.approx(predicted(chosen, cell))


def test_every_row_is_in_one_fit(rows: list[Row]) -> None:
    assert {row.kind for row in rows} == set(LEVELS)
    for row in rows:
        assert row.kind == kind_of(row.family, row.precision, row.threads)


def test_the_quantile_is_conservative() -> None:
    assert quantile([0.1, -0.2, 0.3]) == 0.3
    assert quantile([float(i) for i in range(1, 100)]) == 90.0
