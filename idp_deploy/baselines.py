"""baselines: earlier reports of `check --json`: their values are limits, their files are found again by their paths.

A path ends alike in two reports where the folder around it is another: `out/a/m.onnx` here, `build/a/m.onnx` there.
Where a report has one file of a format and the other one, too, these are the same whatever they are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.flow import REPORT_VERSION, Budget, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.units import METRICS, is_quantity, show

BASELINE_TOLERANCE = 0.01  # share by which a metric may exceed the baseline before it is a regression


def baseline_budgets(path: Path, *, tolerances: Mapping[str, float] | None = None) -> tuple[Budget, ...]:
    """The values of an earlier `check --json` as budgets of its files, each loosened by its metric's tolerance.

    Args:
        tolerances: metric → share; BASELINE_TOLERANCE where there is none.

    Raises:
        FileError: not a report of `check --json`.
    """
    rows, told = checks_of(path)
    found = []
    for target, format, name, value, artifact in rows:
        if value is None:
            continue
        metric = METRICS[name]
        loose = (tolerances or {}).get(name, BASELINE_TOLERANCE)
        limit = value * (1 - loose if metric.at_least else 1 + loose)
        allowed = f"{show(value, metric.unit)} {'−' if metric.at_least else '+'} {100 * loose:.3g} %"
        source = f"baseline {path.name} ({allowed}{f'; {told}' if told else ''})"
        found.append(Budget(target, format, name, limit, source, artifact))
    return tuple(found)


Row = tuple[str, FormatName, str, float | None, str]  # target, format, metric, value, artifact


def checks_of(path: Path) -> tuple[list[Row], str]:
    """Every check in a report of `check --json`, and its provenance in words.

    Raises:
        FileError: it is none, or one of a later version.
    """
    try:
        content = documents.parse_json(documents.read_text(path))
        rows = content.get("checks") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError("it has no list of checks")
        if (version := content.get("schema_version", REPORT_VERSION)) != REPORT_VERSION:
            raise ValueError(f"it has the schema_version {version!r:.40}, not {REPORT_VERSION}")
        return [_row(row, number) for number, row in enumerate(rows, 1)], provenance_of(content)
    except FileNotFoundError:
        raise FileError(
            f"no such baseline: {path}", way_out="write one with 'idp-deploy check --json -o FILE'"
        ) from None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        what = "it holds bytes that are no text" if isinstance(error, UnicodeDecodeError) else what
        raise FileError(
            f"{path} is not a report of 'check --json': {what}", way_out="write one with 'check --json -o FILE'"
        ) from None


def bound(budgets: Sequence[Budget], files: Iterable[tuple[FormatName, Path]]) -> tuple[Budget, ...]:
    """Budgets of a baseline, each for the one of the files at hand that its file became.

    What a baseline says of a file that is not at hand stays, and is for none of them.
    """
    here: dict[str, set[str]] = {}
    for format, path in files:
        here.setdefault(format, set()).add(path.as_posix())
    there: dict[str, set[str]] = {}
    for budget in budgets:
        there.setdefault(budget.format, set()).add(budget.artifact)
    now = {format: matched(names, here.get(format, ())) for format, names in there.items()}
    return tuple(replace(b, artifact=now[b.format].get(b.artifact, b.artifact)) for b in budgets)


def matched(before: Iterable[str], after: Iterable[str]) -> dict[str, str]:
    """Paths of one format in two reports: which became which. What ends alike in more than one way is left out.

    >>> matched(["a/m.onnx", "n.onnx"], ["out/a/m.onnx", "out/b/m.onnx"])
    {'a/m.onnx': 'out/a/m.onnx'}
    >>> matched(["m.onnx"], ["renamed.onnx"])
    {'m.onnx': 'renamed.onnx'}
    """
    old, new = sorted({*before}), sorted({*after})
    if len(old) == len(new) == 1:
        return {old[0]: new[0]}
    alike = {(one, other): _alike(one, other) for one in old for other in new}
    found: dict[str, str] = {}
    for depth in sorted({*alike.values()} - {0}, reverse=True):
        pairs = [p for p, n in alike.items() if n == depth and p[0] not in found and p[1] not in found.values()]
        ones, others = ([pair[side] for pair in pairs] for side in (0, 1))
        found |= {one: other for one, other in pairs if ones.count(one) == others.count(other) == 1}
    return found


def _alike(one: str, other: str) -> int:
    """How many of the last parts of two paths are the same, and one more where all are."""
    ends = (f"/{path}".split("/")[::-1] if path else [] for path in (one, other))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False)))


def ends(paths: Iterable[str]) -> dict[str, str]:
    """Path → its shortest end that none of the others has; "" where there is but one.

    >>> ends(["a/m.onnx", "b/m.onnx", "b/n.onnx"])
    {'a/m.onnx': 'a/m.onnx', 'b/m.onnx': 'b/m.onnx', 'b/n.onnx': 'b/n.onnx'}
    """
    parts = {path: path.split("/") for path in sorted({*paths})}
    longest = max(map(len, parts.values()), default=0)
    depth = next(
        (n for n in range(1, longest) if len({*(tuple(p[-n:]) for p in parts.values())}) == len(parts)), longest
    )
    return {path: "/".join(p[-depth:]) if len(parts) > 1 else "" for path, p in parts.items()}


def _row(row: object, number: int) -> Row:
    """One check with its whole path; ValueError names the check, the key and what it has."""
    if not isinstance(row, dict):
        raise ValueError(f"check {number} is {row!r:.40}, not a table")
    target, format, metric, value = (row.get(key) for key in ("target", "format", "metric", "value"))
    if not isinstance(target, str):
        raise ValueError(f"check {number} has the target {target!r:.40}, not a name")
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"check {number} has the format {format!r:.40}, not one of {', '.join(FORMATS)}")
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"check {number} has the metric {metric!r:.40}, not one of {', '.join(METRICS)}")
    if "value" not in row or not (value is None or is_quantity(value)):
        raise ValueError(
            f"check {number} ({target} {format} {metric}) has the value {value!r:.40}, not a number from 0"
        )
    artifact = Path(str(row.get("artifact") or "").replace("\\", "/")).as_posix()
    return target, format, metric, None if value is None else float(value), artifact if artifact != "." else ""


def provenance_of(report: Mapping[str, object]) -> str:
    """Who wrote an earlier report, when and from which commit, as it says itself.

    >>> provenance_of({"provenance": {"version": "0.1.0", "date": "2026-01-31", "commit": "0123456789abcdef"}})
    'idp-deploy 0.1.0, 2026-01-31, commit 0123456789'
    """
    told = report.get("provenance")
    if not isinstance(told, Mapping):
        return ""
    words = {"version": "idp-deploy {}", "date": "{}", "commit": "commit {:.10}"}
    said = {key: told[key] for key in words if isinstance(told.get(key), str)}
    return ", ".join(words[key].format(f"{text:.40}") for key, text in said.items() if text)
