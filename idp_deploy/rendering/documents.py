"""From the nouns of `flow` to Documents: what each command says, in which words and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idp_deploy.flow import Artifact, Budget, Check, Estimate, FormatName, Interval, Measurement, Parity, Report
from idp_deploy.rendering.document import Bar, Case, Document, Plot, State, Table
from idp_deploy.units import METRICS, show


def interval(value: Interval | None, reason: str = "") -> str:
    """`3.2 ms (2.6 to 3.9)`; the reason where there is no number."""
    if value is None:
        return f"not estimable: {reason}" if reason else "not estimable"
    low, high = show(value.low, "ms"), show(value.high, "ms")
    unit = f" {show(value.middle, 'ms').rpartition(' ')[2]}"
    return f"{show(value.middle, 'ms')} ({low.removesuffix(unit)} to {high.removesuffix(unit)})"


# ── export ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def export_document(
    artifacts: Sequence[Artifact], parities: Mapping[Path, Parity], dense: Mapping[str, int], next: str = ""
) -> Document:
    """What was written, how much smaller it is than the same model stored dense, and whether it agrees."""
    rows, states, cases = [], [], []
    for artifact in artifacts:
        parity = parities.get(artifact.path)
        dense_bytes = dense.get(artifact.format)
        ratio = f"{artifact.size_bytes / dense_bytes:.3f}" if dense_bytes else "–"
        rows.append(
            (
                artifact.format,
                str(artifact.path),
                show(artifact.size_bytes, "bytes"),
                ratio,
                parity_summary(parity) if parity else "not verified",
            )
        )
        states.append(_state(parity))
        if parity:
            cases += parity_cases(parity)
    notes = [f"{a.format}: {note}" for a in artifacts for note in a.notes]
    notes += [f"{p.artifact.format}: {note}" for p in parities.values() for note in p.notes]
    columns = ("format", "file", "size", "of dense", "verified")
    data = {
        "artifacts": [
            {
                "format": a.format,
                "path": str(a.path),
                "size_bytes": a.size_bytes,
                "dense_bytes": dense.get(a.format),
                "parity": parity_data(parities[a.path]) if a.path in parities else None,
                "manifest": dict(a.manifest),
            }
            for a in artifacts
        ]
    }
    return Document("Export", [Table("", columns, rows, frozenset({2, 3}), states)], data, notes, cases, next=next)


# ── verify ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def parity_summary(parity: Parity) -> str:
    """`max error 3e-7, 27/27 weights proved`."""
    worst = max((o.max_relative_error for o in parity.outputs), default=float("nan"))
    proved = sum(w.passed for w in parity.weights)
    weights = f", {proved}/{len(parity.weights)} weights proved" if parity.weights else ""
    return f"max error {show(worst, 'error')}{weights}"


def parity_cases(parity: Parity) -> list[Case]:
    """A case an output and runtime, a case a weight."""
    suite, file = f"verify {parity.artifact.format}", str(parity.artifact.path)
    outputs = [
        Case(
            suite,
            f"{o.runtime} {o.output}",
            o.passed,
            f"relative error {show(o.max_relative_error, 'error')}, tolerance {show(o.tolerance, 'error')}",
            file,
        )
        for o in parity.outputs
    ]
    weights = [
        Case(
            suite, f"weight {w.parameter}", w.passed, f"{w.zeros} zeros in the file, {w.expected_zeros} expected", file
        )
        for w in parity.weights
    ]
    return outputs + weights


def parity_data(parity: Parity) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "path": str(parity.artifact.path),
        "format": parity.artifact.format,
        "passed": parity.passed,
        "outputs": [{**asdict(o), "passed": o.passed} for o in parity.outputs],
        "weights": [asdict(w) for w in parity.weights],
        "metrics": dict(parity.metrics),
        "notes": list(parity.notes),
    }


def parity_document(parity: Parity) -> Document:
    """Every output of every runtime, then every weight proved from the file."""
    outputs = Table(
        "outputs against the model" if parity.weights else "outputs, runtime against runtime",
        ("runtime", "output", "max error", "tolerance", "verdict"),
        [
            (
                o.runtime,
                o.output,
                show(o.max_relative_error, "error"),
                show(o.tolerance, "error"),
                "pass" if o.passed else "fail",
            )
            for o in parity.outputs
        ],
        frozenset({2, 3}),
        [_verdict(o.passed) for o in parity.outputs],
    )
    tables = [outputs]
    if parity.weights:
        tables.append(
            Table(
                "weights read back from the file",
                ("weight", "stored", "bytes", "zeros", "expected", "verdict"),
                [
                    (
                        w.parameter,
                        w.encoding,
                        show(w.size_bytes, "bytes"),
                        str(w.zeros),
                        str(w.expected_zeros),
                        "pass" if w.passed else "fail",
                    )
                    for w in parity.weights
                ],
                frozenset({2, 3, 4}),
                [_verdict(w.passed) for w in parity.weights],
            )
        )
    if parity.metrics:
        rows = [(runtime, f"{value * 100:.2f} %") for runtime, value in parity.metrics.items()]
        tables.append(Table("accuracy of the file on the task", ("runtime", "accuracy"), rows, frozenset({1})))
    title = f"{parity.artifact.path}: {'agrees with the model' if parity.passed else 'FAILED verification'}"
    return Document(title, tables, parity_data(parity), parity.notes, parity_cases(parity))


# ── simulate ────────────────────────────────────────────────────────────────────────────────────────────────────────


def estimate_table(estimates: Sequence[Estimate], title: str = "") -> Table:
    """One row a file and target."""
    return Table(
        title,
        ("target", "format", "runtime", "latency (90 % interval)", "size", "gzip", "memory", "MACs run"),
        [
            (
                e.target,
                e.format,
                e.runtime,
                interval(e.latency_ms, e.reason),
                show(e.size_bytes, "bytes"),
                show(e.gzip_bytes, "bytes"),
                show(e.resident_weight_bytes + e.peak_activation_bytes, "bytes"),
                f"{e.executed_macs / 1e6:.1f} M of {e.macs / 1e6:.1f} M",
            )
            for e in estimates
        ],
        frozenset({4, 5, 6, 7}),
        ["" if e.latency_ms else "warn" for e in estimates],
    )


def layer_table(estimate: Estimate) -> Table:
    """Where the time goes, in execution order."""
    total = sum(op.latency_ms or 0.0 for op in estimate.ops) or 1.0
    return Table(
        f"{estimate.artifact.name} on {estimate.target}, op by op",
        ("op", "class", "time", "share", "MACs", "run", "weights", "sparse"),
        [
            (
                op.name,
                op.op_class,
                show(op.latency_ms, "ms"),
                f"{(op.latency_ms or 0.0) / total * 100:.1f} %",
                f"{op.macs / 1e6:.2f} M",
                f"{op.executed_macs / 1e6:.2f} M",
                show(op.weight_bytes, "bytes"),
                "yes" if op.runs_sparse else "no",
            )
            for op in estimate.ops
        ],
        frozenset({2, 3, 4, 5, 6}),
    )


def estimate_document(
    estimates: Sequence[Estimate], *, layers: bool = False, measurements: Sequence[Measurement] = ()
) -> Document:
    """Estimates (simulated) and, where asked for, measurements of this host, never in one table."""
    tables = [estimate_table(estimates, "estimates (simulated, not measured)")]
    if layers:
        tables += [layer_table(e) for e in estimates if e.ops]
    if measurements:
        rows = [
            (
                m.artifact.name,
                m.runtime,
                str(m.threads),
                show(m.median_ms, "ms"),
                show(m.low_ms, "ms"),
                show(m.high_ms, "ms"),
            )
            for m in measurements
        ]
        columns = ("file", "runtime", "threads", "median CPU", "25 %", "75 %")
        tables.append(Table(f"measured on this host ({measurements[0].host})", columns, rows, frozenset({2, 3, 4, 5})))
    data = {"estimates": [asdict(e) for e in estimates], "measurements": [asdict(m) for m in measurements]}
    plots = [latency_plot(estimates)]
    if layers:
        plots += [
            Plot(
                f"{e.artifact.name} on {e.target}: time by op",
                "ms",
                [Bar(op.name, op.latency_ms) for op in e.ops if op.latency_ms],
            )
            for e in estimates
        ]
    notes = list(dict.fromkeys(note for e in estimates for note in e.notes))
    return Document("Simulation", tables, data, notes, plots=plots)


def latency_plot(estimates: Sequence[Estimate], limits: Mapping[tuple[str, FormatName], float] | None = None) -> Plot:
    """Bars with intervals; a vertical mark where a budget stands."""
    limits = limits or {}
    return Plot(
        "simulated latency, 90 % interval",
        "ms",
        [
            Bar(
                f"{e.target} {e.format}",
                e.latency_ms.middle,
                e.latency_ms.low,
                e.latency_ms.high,
                limits.get((e.target, e.format)),
            )
            for e in estimates
            if e.latency_ms
        ],
    )


# ── check and run ───────────────────────────────────────────────────────────────────────────────────────────────────


def check_table(checks: Sequence[Check]) -> Table:
    """Metric, value, limit, verdict; for a violation also by how much, what is responsible, what to do."""
    return Table(
        "budgets",
        ("target", "format", "metric", "value", "limit", "over", "verdict", "detail"),
        [
            (
                c.budget.target,
                c.budget.format,
                c.budget.metric,
                show(c.value, METRICS[c.budget.metric].unit),
                show(c.budget.limit, METRICS[c.budget.metric].unit),
                _over(c),
                c.verdict,
                "; ".join(filter(None, (c.detail, c.fix))),
            )
            for c in checks
        ],
        frozenset({3, 4, 5}),
        [_verdict(c.verdict == "pass") for c in checks],
    )


def report_document(report: Report, *, title: str = "Check", unanswered: Sequence[Budget] = ()) -> Document:
    """The gate's verdicts, then what they rest on."""
    tables: list[Table] = []
    if report.facts:
        rows = [(name, str(value)) for name, value in report.facts.items()]
        tables.append(Table("", ("what", "value"), rows, frozenset({1})))
    if report.parities:
        files = [(p.artifact.format, str(p.artifact.path), parity_summary(p)) for p in report.parities]
        tables.append(
            Table("files", ("format", "file", "verified"), files, states=[_state(p) for p in report.parities])
        )
    tables.append(estimate_table(report.estimates, "estimates (simulated, not measured)"))
    if report.checks:
        tables.append(check_table(report.checks))
    notes = [f"no artifact for {b.target}/{b.format}: {b.metric} was not checked ({b.source})" for b in unanswered]
    notes += list(dict.fromkeys(note for e in report.estimates for note in e.notes))
    notes += list(dict.fromkeys(f"{p.artifact.format}: {n}" for p in report.parities for n in p.notes))
    limits = {(c.budget.target, c.budget.format): c.budget.limit for c in report.checks if c.budget.metric == "latency"}
    data = {
        "checks": [check_data(c) for c in report.checks],
        "estimates": [asdict(e) for e in report.estimates],
        "parities": [parity_data(p) for p in report.parities],
        "facts": dict(report.facts),
    }
    cases = [case for p in report.parities for case in parity_cases(p)] + [check_case(c) for c in report.checks]
    return Document(title, tables, data, notes, cases, [latency_plot(report.estimates, limits)])


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


def _over(check: Check) -> str:
    if check.verdict != "fail" or check.value is None or not check.budget.limit:
        return ""
    return f"{abs(check.value / check.budget.limit - 1) * 100:.1f} %"


def _verdict(passed: bool) -> State:
    return "good" if passed else "bad"


def _state(parity: Parity | None) -> State:
    return "warn" if parity is None else _verdict(parity.passed)
