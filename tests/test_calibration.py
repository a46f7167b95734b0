"""The committed coefficients come from the committed measurements, and the held-out errors are what they claim."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from idp_deploy.simulation.calibration import LEVELS, little_too, load_rows, rows_of, sparse_penalties
from idp_deploy.simulation.cost_model import INDEX, TERMS, effects_of, kind_of, load_coefficients
from idp_deploy.simulation.fitting import Row, fit
from idp_deploy.simulation.holdouts import Error, held_out, width
from idp_deploy.simulation.targets import folder, load_cores
from idp_deploy.simulation.uncertainty import covariance

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
        assert row == pytest.approx(committed[":".join(key)], abs=2e-4)


def test_the_sparse_penalties_refit() -> None:
    model = load_coefficients(folder() / "coefficients.json")
    found = sparse_penalties(folder(), load_cores(), dict(model.effects))
    assert set(found) == set(COMMITTED["sparse_penalty"])
    for name, (penalty, spread) in found.items():
        assert [penalty, spread] == pytest.approx(COMMITTED["sparse_penalty"][name], abs=2e-3)
    assert found["in-order"][0] > 4 > found["out-of-order"][0]


def test_big_and_little_cores_together_are_far_from_big_ones_alone() -> None:
    assert little_too(folder()) == COMMITTED["little_too"]
    assert 0.3 < COMMITTED["little_too"] < 1.5


def test_a_fit_explains_what_it_was_told(rows: list[Row]) -> None:
    chosen = rows_of(rows, "single")
    found = fit(chosen, LEVELS["single"]).effects()
    start = load_coefficients(folder() / "coefficients.json").prior
    misses = []
    for row in chosen:
        cost = start + sum((times * found[level, name] for level, name, times in row.effects), np.zeros(len(TERMS)))
        misses.append(abs(float(row.peak_ms @ np.exp(cost)) / row.latency_ms - 1))
    assert np.mean(misses) < 0.08


WANTED = {"model": 0.095, "device": 0.14, "device+anchor": 0.1, "both+anchor": 0.11}


@pytest.mark.parametrize("cell", WANTED)
def test_held_out_errors_stay_below_what_is_promised(cell: str, errors: list[Error]) -> None:
    met = [error.error for error in errors if error.cell == cell]
    assert len(met) > 150
    assert np.abs(np.expm1(met)).mean() < WANTED[cell]


def test_nothing_leaks_into_a_held_out_prediction(rows: list[Row]) -> None:
    """A measurement that is left out may say anything: the prediction of its row does not move."""
    chosen = [row for row in rows_of(rows, "single") if row.family in ("xnnpack", "tflite-builtin")]
    victim = next(row for row in chosen if row.family == "xnnpack")
    changed = [
        replace(row, latency_ms=row.latency_ms * 3)
        if row.device == victim.device and row.model == victim.model
        else row
        for row in chosen
    ]

    def predicted(rows: list[Row]) -> dict[str, float]:
        return {
            f"{e.cell} {e.row.place}{e.row.model}": e.error + np.log(e.row.latency_ms)
            for e in held_out(rows, LEVELS["single"], folds=4)
            if e.cell in cells and e.row.device == victim.device and e.row.model == victim.model
        }

    cells = ("model", "device", "both")
    before = predicted(chosen)
    assert {name.split()[0] for name in before} == set(cells)
    assert predicted(changed) == pytest.approx(before)


def test_every_row_is_in_one_fit(rows: list[Row]) -> None:
    assert {row.kind for row in rows} == set(LEVELS)
    for row in rows:
        assert row.kind == kind_of(row.family, row.precision, row.threads)


def _errors(row: Row, device: str, sizes: list[float]) -> list[Error]:
    return [
        Error(replace(row, device=device, model=f"{device}{i}"), "device", size, 1.0) for i, size in enumerate(sizes)
    ]


def test_a_width_counts_groups_and_not_rows(rows: list[Row]) -> None:
    """One device with a hundred small errors does not outvote twenty others."""
    row = rows[0]
    few = [error for n in range(20) for error in _errors(row, f"d{n}", [1.0])]
    many = _errors(row, "crowd", [0.1] * 100)
    assert width(few, []) == 1.0
    assert width([*few, *many], []) == 1.0
    assert width(many, few) == 1.0
    assert 0.1 <= width([e for n in range(60) for e in _errors(row, f"d{n}", [0.1])], few) < 1.0


def test_a_term_that_a_runtime_never_spent_time_in_is_uncertain() -> None:
    """No published network with hard-swish ran on Bolt: an interval grows with its share of the time."""
    model = load_coefficients(folder() / "coefficients.json")
    core = load_cores()["a76"]
    uncertain = {
        family: np.diag(
            covariance(effects_of("single", family, core, "", "", "float32", 1), LEVELS["single"], model.known)
        )
        for family in ("ncnn", "bolt")
    }
    swish, pointwise = INDEX["transcendental"], INDEX["pointwise"]
    assert uncertain["ncnn"][swish] > 1.5 * uncertain["ncnn"][pointwise]
    assert uncertain["bolt"][swish] > uncertain["ncnn"][swish]


def test_networks_of_one_benchmark_leave_with_their_namesakes(rows: list[Row]) -> None:
    networks = {row.model: row.network for row in rows}
    assert networks["ncnn_mobilenet"] == "mobilenet_v1_1.0_224"
    assert set(networks.values()) - set(networks) <= {"resnet18", "mnasnet_1.0", "squeezenet_1.1_227", "alexnet"}
