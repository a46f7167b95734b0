"""Baselines: earlier reports, whose values are limits of the files that theirs became."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from idp_deploy.baselines import baseline_budgets, bound
from idp_deploy.diffing import diff_reports
from idp_deploy.errors import FileError
from idp_deploy.gating import Evidence, gate, missing, ungated
from idp_deploy.rendering import render
from idp_deploy.rendering.verdicts import report_document
from tests.test_gating import budget, evidence


def _at(path: str) -> Evidence:
    one = evidence()
    return Evidence(replace(one.contents, path=Path(path)), replace(one.estimate, artifact=Path(path)))


def _report(path: Path, sizes: dict[str, float | None]) -> Path:
    row = {"target": "pixel-4", "format": "tflite", "metric": "size"}
    rows = [{**row, "value": size, **({"artifact": one} if one else {})} for one, size in sizes.items()]
    path.write_text(json.dumps({"checks": rows}))
    return path


PATHS = [  # paths of a report → those of a later one → which of the earlier each of these became
    (["m"], ["m", "n"], {"m": "m"}),
    (["a/m"], ["/ci/a/m", "/ci/n"], {"/ci/a/m": "a/m"}),
    (["m", "a/m"], ["m", "a/m"], {"m": "m", "a/m": "a/m"}),
    (["m", "a/m"], ["out/m", "out/a/m"], {"out/m": "m", "out/a/m": "a/m"}),
    (["m", "n"], ["n"], {"n": "n"}),
    (["m"], ["renamed"], {"renamed": "m"}),
    ([""], ["any"], {"any": ""}),
    (["m"], ["a/m", "b/m"], {}),  # nothing tells which
    (["o"], ["m", "n"], {}),
]


@pytest.mark.parametrize(("before", "after", "became"), PATHS)
def test_files_of_two_reports_are_held_against_each_other_by_their_paths(
    before: Sequence[str], after: Sequence[str], became: dict[str, str], tmp_path: Path
) -> None:
    sizes = {one: 100.0 * n for n, one in enumerate(before, 1)}
    old = _report(tmp_path / "a.json", dict(sizes))
    new = _report(tmp_path / "b.json", dict.fromkeys(after, 100.0))
    changes = diff_reports(old, new)
    assert {c.before for c in changes if c.after and c.before} == {sizes[one] for one in became.values()}
    kinds = [change.kind for change in changes]
    lost, come = len(before) - len(became), len(after) - len(became)
    assert (kinds.count("removed"), kinds.count("added")) == (lost, come)
    assert len({change.artifact for change in changes}) == len(changes)
    limits = bound(baseline_budgets(old), [("tflite", Path(one)) for one in after])
    held = {one: [limit.limit for limit in limits if limit.is_for(Path(one))] for one in after}
    assert held == {one: [pytest.approx(sizes[became[one]] * 1.01)] if one in became else [] for one in after}
    assert len(missing(limits, [_at(one) for one in after])) == lost


def test_a_baseline_that_names_no_file_holds_every_file(tmp_path: Path) -> None:
    limits = bound(baseline_budgets(_report(tmp_path / "a.json", {"": 300.0})), [("tflite", Path(one)) for one in "mn"])
    assert all(limit.is_for(Path(one)) for limit in limits for one in "mn")


def test_a_file_that_only_the_baseline_has_is_named(tmp_path: Path) -> None:
    path = _report(tmp_path / "a.json", {"m.tflite": 600.0, "n.tflite": 600.0})
    limits = bound(baseline_budgets(path), [("tflite", Path("m.tflite"))])
    report = gate(limits, [_at("m.tflite")], strict=True)
    assert [check.detail for check in report.checks] == ["", "n.tflite is not among the files"]
    said = report_document(report, unanswered=missing(limits, [_at("m.tflite")])).notes
    assert any(note.startswith("n.tflite is not among the files: size on pixel-4 was not checked") for note in said)


def test_a_report_is_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(render(report_document(gate([budget("size", 600)], [evidence()])), "json"))
    (limit,) = baseline_budgets(path)
    assert limit.limit == pytest.approx(606)
    assert gate([limit], [evidence()]).passed
    path.write_text(json.dumps({"checks": [{"target": "pixel-4"}]}))
    with pytest.raises(FileError, match="check --json"):
        baseline_budgets(path)


def test_files_of_one_format_are_each_held_to_their_own_baseline(tmp_path: Path) -> None:
    names = {"a/m.tflite": 600, "b/m.tflite": 300}
    row = {"target": "pixel-4", "format": "tflite", "metric": "size"}
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"checks": [{**row, "artifact": one, "value": size} for one, size in names.items()]}))
    limits = bound(baseline_budgets(path), [("tflite", Path("out") / one) for one in names])
    assert [(limit.limit, limit.is_for(Path("out/b/m.tflite"))) for limit in limits] == [(606, False), (303, True)]
    files = [_at(one) for one in names]  # of 600 bytes each
    limits = bound(baseline_budgets(path), [("tflite", Path(one)) for one in names])
    assert [check.verdict for check in gate(limits, files).checks] == ["pass", "fail"]
    lacking = ungated(path, limits, [budget("size", 600)], [*files, _at("c/m.tflite")])
    assert [check.artifact.as_posix() for check in lacking] == ["c/m.tflite"]
    (change, other) = diff_reports(path, path)
    assert (change.artifact, change.before, other.artifact, other.before) == ("a/m.tflite", 600, "b/m.tflite", 300)


def test_a_baseline_of_one_file_is_for_it_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(render(report_document(gate([budget("size", 600)], [evidence()])), "json"))
    elsewhere = Path("elsewhere/renamed.tflite")
    (limit,) = bound(baseline_budgets(path), [("tflite", elsewhere)])
    assert limit.is_for(elsewhere)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        *(("value", v, "value") for v in ("12", True, [1], float("nan"), float("inf"), -5, 10**400, {})),
        *(("metric", v, "metric") for v in ("zize", ["size"], None)),
        *(("format", v, "format") for v in ("zip", ["onnx"], None)),
        *(("target", v, "target") for v in (["pixel-4"], None, 3)),
    ],
)
def test_a_baseline_names_the_check_and_the_value_that_is_none(
    key: str, value: object, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "baseline.json"
    row = {"target": "pixel-4", "format": "tflite", "metric": "size", "value": 600}
    path.write_text(json.dumps({"checks": [row, {**row, key: value}]}))
    with pytest.raises(FileError, match=rf"check 2.* has the {said}") as raised:
        baseline_budgets(path)
    assert "Error(" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"checks": {"a": 1}}', '{"checks": null}', '{"checks": [0]}'])
def test_a_baseline_without_a_list_of_checks_says_so(content: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(FileError, match=r"list of checks|not a table"):
        baseline_budgets(path)
    path.write_text('{"checks": [], "schema_version": 99}')
    with pytest.raises(FileError, match="it has the schema_version 99, not 1"):
        baseline_budgets(path)
