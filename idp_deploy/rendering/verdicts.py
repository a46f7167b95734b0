"""Documents of check and run: every budget's verdict, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from idp_deploy.flow import Budget, Check, Report
from idp_deploy.rendering.artifacts import parity_cases, parity_data, parity_state, parity_summary, verdict
from idp_deploy.rendering.document import Case, Document, Table
from idp_deploy.rendering.estimates import estimate_notes, estimate_table
from idp_deploy.rendering.figures import report_pictures
from idp_deploy.units import METRICS, show


def check_table(checks: Sequence[Check]) -> Table:
    """Metric, value, limit, verdict; what failed is spelled out by its `Case`."""
    return Table(
        "budgets",
        ("target", "format", "metric", "value", "limit", "verdict"),
        [
            (
                c.budget.target,
                c.budget.format,
                c.budget.metric,
                show(c.value, METRICS[c.budget.metric].unit),
                show(c.budget.limit, METRICS[c.budget.metric].unit),
                c.verdict,
            )
            for c in checks
        ],
        frozenset({3, 4}),
        [verdict(c.verdict == "pass") for c in checks],
    )


def report_document(report: Report, *, title: str = "Check", unanswered: Sequence[Budget] = ()) -> Document:
    """The gate's verdicts, then what they rest on."""
    tables: list[Table] = []
    if report.facts:
        tables.append(_model_table(report.facts))
    if report.parities:
        tables.append(_file_table(report))
    tables.append(estimate_table(report.estimates, "estimates (simulated, not measured)"))
    if report.checks:
        tables.append(check_table(report.checks))
    notes = [f"no artifact for {b.target}/{b.format}: {b.metric} was not checked ({b.source})" for b in unanswered]
    notes += [f"{c.budget.target} {c.budget.format} latency: {c.detail}" for c in report.checks if _narrow(c)]
    notes += estimate_notes(report.estimates)
    notes += list(dict.fromkeys(f"{p.artifact.format}: {n}" for p in report.parities for n in p.notes))
    data = {
        "checks": [check_data(c) for c in report.checks],
        "estimates": [asdict(e) for e in report.estimates],
        "parities": [parity_data(p) for p in report.parities],
        "facts": dict(report.facts),
        "files": [asdict(one) for one in report.files],
    }
    cases = [case for p in report.parities for case in parity_cases(p)] + [check_case(c) for c in report.checks]
    pictures = report_pictures(report.files, report.estimates, report.checks, report.parities, report.facts)
    return Document(title, tables, data, notes, cases, pictures)


def _model_table(facts: Mapping[str, Any]) -> Table:
    share = show(facts["zeros"] / facts["prunable"], "share")
    rows = [(f"{facts['metric']}, {stage}", show(value, "share")) for stage, value in facts["accuracy"].items()]
    rows.append(("zeros", f"{share} ({facts['zeros']} of {facts['prunable']} prunable)"))
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
    columns = ("format", "file", "dense", "sparse", "ratio", "verified")
    return Table("files", columns, rows, frozenset({2, 3, 4}), [parity_state(p) for p in report.parities])


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
    }


def check_case(check: Check) -> Case:
    """The same as one test case."""
    unit = METRICS[check.budget.metric].unit
    relation = "≥" if METRICS[check.budget.metric].at_least else "≤"
    message = f"{check.budget.metric} {show(check.value, unit)}, wanted {relation} {show(check.budget.limit, unit)}"
    extra = "; ".join(filter(None, (_over(check) and f"over by {_over(check)}", check.detail, check.fix)))
    return Case(
        f"{check.budget.target} {check.budget.format}",
        check.budget.metric,
        check.verdict == "pass",
        f"{message}; {extra}; limit from {check.budget.source}" if extra else message,
        str(check.artifact),
    )


def _narrow(check: Check) -> bool:
    """Passed, but the interval reaches over the limit."""
    return check.verdict == "pass" and bool(check.detail)


def _over(check: Check) -> str:
    if check.verdict != "fail" or check.value is None or not check.budget.limit:
        return ""
    return f"{abs(check.value / check.budget.limit - 1) * 100:.1f} %"
