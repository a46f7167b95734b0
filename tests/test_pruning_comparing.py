"""compare: paired by seed, resumable, with intervals that say what they mean."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Recipe
from idp_deploy.pruning import METHODS, Run, compare
from idp_deploy.pruning.comparing import difference
from idp_deploy.pruning.options import check_options, known_options
from idp_deploy.pruning.resuming import load_runs, save_runs
from idp_deploy.pruning.tuning import OWN, TIMINGS, settings_of
from tests.pruning_fixtures import PRUNABLE, Blobs, trained


def runs(method: str, *accuracies: float) -> list[Run]:
    return [Run(method, 0.9, seed, accuracy, 0.9) for seed, accuracy in enumerate(accuracies)]


def test_the_interval_is_students_for_paired_gaps() -> None:
    found = difference([*runs("idp", 0.9, 0.8, 0.7), *runs("gmp", 0.85, 0.76, 0.67)], "idp", "gmp", 0.9)
    assert found is not None
    assert found.interval.middle == pytest.approx(0.04)
    # gaps 0.05, 0.04, 0.03: standard error 0.01/√3, t(0.975, 2) = 4.302653
    assert found.interval.high - found.interval.middle == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)
    assert found.verdict == "better"


def test_a_difference_that_may_be_nothing_is_a_tie() -> None:
    found = difference([*runs("idp", 0.9, 0.7), *runs("gmp", 0.85, 0.76)], "gmp", "idp", 0.9)
    assert found is not None
    assert found.verdict == "tie"


def test_only_common_seeds_count() -> None:
    assert difference([*runs("idp", 0.9), *runs("gmp", 0.85, 0.76)], "gmp", "idp", 0.9) is None


def test_compare_runs_every_combination_once_and_reuses_what_is_known() -> None:
    model, task, seen = trained(), Blobs(), list[Run]()
    recipe = Recipe(epochs=2)
    comparison = compare(
        model, task, recipe, methods=["idp", "random"], sparsities=[0.9], seeds=[0, 1], finished=seen.append
    )
    assert [(r.method, r.seed) for r in seen] == [("idp", 0), ("random", 0), ("idp", 1), ("random", 1)]
    assert all(run.realised == round(0.9 * PRUNABLE) / PRUNABLE for run in comparison.runs)
    assert comparison.mean("idp", 0.9) > comparison.mean("random", 0.9)
    assert [d.method for d in comparison.differences] == ["random"]
    again = compare(
        model, task, recipe, methods=["idp", "random"], sparsities=[0.9], seeds=[0, 1], finished=seen.append, known=seen
    )
    assert again.runs == comparison.runs
    assert len(seen) == 4


def test_every_method_chooses_from_as_many_settings_on_seeds_that_do_not_judge() -> None:
    model, task, seen = trained(), Blobs(), list[Run]()
    given = {"methods": ["idp", "gmp"], "sparsities": [0.9], "seeds": [0, 1], "tune": 3}
    comparison = compare(model, task, Recipe(epochs=2), finished=seen.append, **given)  # type: ignore[arg-type]
    judged = {run.seed for run in comparison.runs}
    assert judged == {0, 1}
    assert judged.isdisjoint(run.seed for run in comparison.tuning)
    for method in ("idp", "gmp"):
        tried = [run for run in comparison.tuning if run.method == method]
        scores = {str(run.settings): 0.0 for run in tried}
        assert len(scores) == 3
        assert "{}" in scores  # as shipped
        assert len(tried) == 3 * len({run.seed for run in tried})
        for run in tried:
            scores[str(run.settings)] += run.accuracy
        chosen = {str(run.settings) for run in comparison.runs if run.method == method}
        assert [scores[settings] for settings in chosen] == [max(scores.values())]
    # what was killed after any run goes on and ends the same
    half = len(seen) // 2
    again = list[Run]()
    resumed = compare(  # type: ignore[misc]
        model,
        task,
        Recipe(epochs=2),
        finished=again.append,
        known=seen[:half],
        **given,  # type: ignore[arg-type]
    )
    assert resumed == comparison
    assert again == seen[half:]


def test_what_was_asked_for_is_no_choice_and_more_settings_than_there_are_is_refused() -> None:
    fixed = {"kappa": 20.0, "dense": 0.2, "ramp": 0.5}
    for settings in settings_of("idp", "auto", 9, fixed):
        assert not set(settings) & set(fixed)
    with pytest.raises(UsageError, match="method gmp has 2 settings to choose from in mode paper, not 3"):
        settings_of("gmp", "paper", 3, {})


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_that_tuning_tries_is_known_to_the_method(method: str) -> None:
    for name, values in {**TIMINGS, **OWN.get(method, {})}.items():
        for value in values:
            check_options(method, "auto", {name: value})
            assert value != known_options(method)[name]


def test_a_paper_run_is_scored_with_exact_zeros() -> None:
    comparison = compare(
        trained(), Blobs(), Recipe(epochs=3, mode="paper"), methods=["idp"], sparsities=[0.9], seeds=[0]
    )
    assert comparison.runs[0].realised == round(0.9 * PRUNABLE) / PRUNABLE
    assert math.isnan(comparison.mean("gmp", 0.9))


def test_a_comparison_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    file, kept = tmp_path / "model.compare.json", [*runs("idp", 0.9, 0.8), Run("idp", 0.9, 2, 0.7, 0.9, {"kappa": 4.0})]
    recipe = Recipe(epochs=2, skip=("head.*",), options={"learning_rate": 0.1})
    assert load_runs(file, recipe, "model") == []
    save_runs(file, kept, recipe, "model")
    assert load_runs(file, replace(recipe, method="gmp", sparsity=0.5, seed=7), "model") == kept
    with pytest.raises(UsageError, match="had epochs = 2, this one has 3 — repeat its settings"):
        load_runs(file, replace(recipe, epochs=3), "model")
    with pytest.raises(UsageError, match="started from another model"):
        load_runs(file, recipe, "other")


WRONG = '{"kind": "idp-deploy comparison, version 1", "recipe": {}, "runs": [%s]}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"kind": "other"}',
        "\x00",
        WRONG % "3",
        WRONG % '{"method": "idp"}',
        WRONG % '{"method": "idp", "sparsity": 0.9, "seed": 0, "accuracy": "x", "realised": 0.9}',
    ],
)
def test_a_file_that_holds_no_comparison_is_one_message(content: str, tmp_path: Path) -> None:
    file = tmp_path / "model.compare.json"
    file.write_text(content)
    with pytest.raises(FileError, match="cannot be read as a comparison — start without --resume"):
        load_runs(file, Recipe(), "model")
