"""Documents of check and run: every budget's verdict, then what it rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.flow import Budget, Check, Interval, Report
from idp_deploy.rendering.artifacts import parity_cases, parity_data, parity_state, parity_summary, verdict
from idp_deploy.rendering.document import Case, Document, Table
from idp_deploy.rendering.estimates import estimate_notes, estimate_tables, together, vendor_notes
from idp_deploy.rendering.figures import report_pictures, told_apart
from idp_deploy.units import METRICS, like, show

if TYPE_CHECKING:
    from idp_deploy.inspection import Redundancy

TIMES = 10  # the limit, from where an excess in percent says less than how often it is taken


def check_table(checks: Sequence[Check]) -> Table:
    """Metric, value, limit, verdict; what failed is spelled out by its `Case`."""
    names = told_apart((c.budget.format, c.artifact) for c in checks)
    return Table(
        "budgets",
        ("target", "format", "metric", "value", "limit", "verdict"),
        [
            (
                c.budget.target,
                f"{c.budget.format} {names[c.artifact]}".rstrip(),
                c.budget.metric,
                show(c.value, METRICS[c.budget.metric].unit),
                show(c.budget.limit, METRICS[c.budget.metric].unit),
                ", ".join(
                    (c.verdict, *["marginal"] * c.marginal, *["baseline"] * c.budget.source.startswith("baseline "))
                ),
            )
            for c in checks
        ],
        frozenset({3, 4}),
        ["warn" if c.marginal and c.verdict == "pass" else verdict(c.verdict == "pass") for c in checks],
    )


def _said(check: Check) -> str:
    """`fail, marginal`, and of which limit where it is not one of the configuration."""
    earlier = check.budget.source.startswith("baseline ")
    return ", ".join((check.verdict, *["marginal"] * check.marginal, *["baseline"] * earlier))


def report_document(
    report: Report,
    *,
    title: str = "Check",
    unanswered: Sequence[Budget] = (),
    redundant: Mapping[Path, Redundancy] | None = None,
) -> Document:
    """The gate's verdicts, then what they rest on."""
    tables: list[Table] = []
    if report.facts:
        tables.append(_model_table(report.facts))
    if report.parities or report.refused:
        tables.append(_file_table(report))
    tables += estimate_tables(report.estimates)
    if report.checks:
        tables.append(check_table(report.checks))
    notes = [
        f"{b.artifact} is not among the files: {b.metric} on {b.target} was not checked ({b.source})"
        if b.artifact
        else f"no artifact for {b.target}/{b.format}: {b.metric} was not checked ({b.source})"
        for b in unanswered
    ]
    close = [c for c in report.checks if c.marginal and c.verdict == "pass"]
    notes += [f"{c.budget.target} {c.budget.format} latency is marginal: {c.detail}" for c in close]
    notes += [f"{path}: {found.message}" for path, found in (redundant or {}).items()]
    notes += estimate_notes(report.estimates) + vendor_notes(report.estimates)
    notes += together((p.artifact.format, note) for p in report.parities for note in p.notes)
    data = {
        "checks": [check_data(c) for c in report.checks],
        "estimates": [asdict(e) for e in report.estimates],
        "parities": [parity_data(p) for p in report.parities],
        "facts": dict(report.facts),
        "sparse_bytes": {str(path): found.sparse_bytes for path, found in (redundant or {}).items()},
        "files": [asdict(one) for one in report.files],
        "refused": dict(report.refused),
    }
    cases = [case for p in report.parities for case in parity_cases(p)]
    cases += [Case("export", format, False, why, "") for format, why in report.refused.items()]
    ranges = {(e.artifact, e.target): e.latency_ms for e in report.estimates if e.latency_ms}
    worst_first = sorted(report.checks, key=lambda check: -check.over)
    names = told_apart((c.budget.format, c.artifact) for c in report.checks)
    cases += [check_case(c, ranges.get((c.artifact, c.budget.target)), names[c.artifact]) for c in worst_first]
    pictures = report_pictures(report.files, report.estimates, report.checks, report.parities, report.facts)
    return Document(title, tables, data, notes, cases, pictures)


def _model_table(facts: Mapping[str, Any]) -> Table:
    share = show(facts["zeros"] / facts["prunable"], "share")
    rows = [(f"{facts['metric']}, {stage}", show(value, "share")) for stage, value in facts["accuracy"].items()]
    rows.append(("zeros", f"{share} ({facts['zeros']} of {facts['prunable']} prunable)"))
    left, whole = facts.get("parameters", 0), facts.get("dense_parameters", 0)
    if left != whole and whole:
        rows.append(("parameters", f"{left:,} of {whole:,} left: channels are taken out"))
    return Table("model", ("what", "value"), rows)


def _file_table(report: Report) -> Table:
    """What was written: dense → sparse, and whether it agrees with the model."""
    dense_bytes = report.facts.get("dense_bytes", {})
    rows = []
    for parity in report.parities:
        artifact = parity.artifact
        dense = dense_bytes.get(str(artifact.path))
        ratio = f"{artifact.size_bytes / dense:.3f}" if dense else "–"
        sizes = (show(dense, "bytes"), show(artifact.size_bytes, "bytes"), ratio)
        rows.append((artifact.format, str(artifact.path), *sizes, parity_summary(parity)))
    rows += [(format, "not written", "–", "–", "–", why) for format, why in report.refused.items()]
    states = [parity_state(p) for p in report.parities]
    states += ["bad" for _ in report.refused]
    columns = ("format", "file", "dense", "sparse", "ratio", "verified")
    return Table("files", columns, rows, frozenset({2, 3, 4}), states)


def check_data(check: Check) -> dict[str, Any]:
    """One verdict, flat, as `--json` prints it and `--baseline` reads it."""
    return {
        "target": check.budget.target,
        "format": check.budget.format,
        "metric": check.budget.metric,
        "unit": METRICS[check.budget.metric].unit,
        "artifact": str(check.artifact),
        "value": check.value,
        "limit": check.budget.limit,
        "source": check.budget.source,
        "verdict": check.verdict,
        "detail": check.detail,
        "fix": check.fix,
        "over": check.over if check.verdict == "fail" else None,  # share of the limit
        "marginal": check.marginal,
        "layer": check.layer,
        "remedy": asdict(check.remedy) if check.remedy else None,
    }


def check_case(check: Check, latency: Interval | None = None, name: str = "") -> Case:
    """The same as one test case, in one line.

    Args:
        latency: the interval behind a latency. name: of the file, where there are several in its format.
    """
    unit = METRICS[check.budget.metric].unit
    relation = "≥" if METRICS[check.budget.metric].at_least else "≤"
    between = ""
    if latency and check.budget.metric == "latency":
        axis = like(latency.middle)
        between = f" ({axis.number(latency.low)} to {axis.number(latency.high)})"
    value, limit = show(check.value, unit), show(check.budget.limit, unit)
    message = f"{check.budget.metric} {value}{between}, wanted {relation} {limit}"
    parts = (
        _missed(check),
        "marginal" if check.marginal and check.verdict == "fail" else "",
        check.detail,
        f"most of it: {check.layer}" if check.layer and not _named(check.layer, check.detail) else "",
        check.fix,
    )
    extra = "; ".join(filter(None, parts))
    return Case(
        f"{check.budget.target} {check.budget.format} {name}".rstrip(),
        check.budget.metric,
        check.verdict == "pass",
        f"{message}; {extra}; limit from {check.budget.source}" if extra else message,
        str(check.artifact),
    )


def _named(layer: str, text: str) -> bool:
    """
    >>> _named("4", "largest weight w4_weight"), _named("4", "largest weight 4.weight")
    (False, True)
    """
    return re.search(rf"(?<!\w){re.escape(layer)}(?!\w)", text) is not None


def _missed(check: Check) -> str:
    """By how much a failed check misses its limit: in points, in percent, or how many times the limit it is."""
    value, limit, metric = check.value, check.budget.limit, METRICS[check.budget.metric]
    if check.verdict != "fail" or value is None or not limit:
        return ""
    if not metric.at_least and value / limit >= TIMES:
        return f"{value / limit:,.0f} times the limit"
    by = f"{abs(value - limit) * 100:.1f} points" if metric.unit == "share" else f"{abs(value / limit - 1) * 100:.1f} %"
    return f"{'short' if metric.at_least else 'over'} by {by}"
