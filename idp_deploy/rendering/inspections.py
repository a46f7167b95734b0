"""Documents about what lies in a file, and whether a runtime will run it sparse."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from idp_deploy.rendering.document import Document, State, Table
from idp_deploy.rendering.figures import report_pictures
from idp_deploy.units import show

if TYPE_CHECKING:  # rendering knows the shapes of these, not their rooms
    from idp_deploy.flow import FileFacts
    from idp_deploy.formats.onnx.runtimes import RuntimeLint
    from idp_deploy.formats.sparse_kernels import SparseLint
    from idp_deploy.inspection import Inspection


def inspection_document(
    inspection: Inspection,
    lint: SparseLint | None = None,
    runtime: RuntimeLint | None = None,
    facts: FileFacts | None = None,
    runner: str = "XNNPACK",
) -> Document:
    """Per tensor: shape, dtype, zeros, encoding, bytes, bound; then totals and what a download takes."""
    rows = [
        (
            t.name,
            "×".join(map(str, t.shape)) or "scalar",
            t.dtype,
            show(t.sparsity, "share"),
            t.encoding,
            show(t.size_bytes, "bytes"),
            show(t.bound_bytes, "bytes"),
        )
        for t in inspection.tensors
    ]
    columns = ("tensor", "shape", "dtype", "zeros", "encoding", "bytes", "bound")
    tables = [
        Table("", columns, rows, frozenset({3, 5, 6})),
        Table("", ("total", ""), _totals(inspection), frozenset({1})),
    ]
    if lint is not None:
        tables.append(lint_table(lint, runner))
    if runtime is not None:
        tables.append(runtime_table(runtime))
    data = {**asdict(inspection), "lint": lint and asdict(lint), "runtime": runtime and asdict(runtime)}
    title = f"{inspection.path} ({inspection.format})"
    return Document(title, tables, data, inspection.warnings, pictures=report_pictures([facts], []) if facts else [])


def lint_table(lint: SparseLint, runner: str = "XNNPACK") -> Table:
    """Which rule of the runtime each op breaks, and what to change."""
    if not lint.findings:
        verdict = f"{runner} runs these weights sparse" if lint.runs_sparse else "there is nothing to run sparse"
        return Table("sparse execution", ("verdict",), [(verdict,)], states=["good" if lint.runs_sparse else ""])
    state: State = "" if lint.runs_sparse else "bad"
    return Table(
        f"sparse execution: {runner} runs this file " + ("partly sparse" if lint.runs_sparse else "DENSE"),
        ("op", "rule", "finding", "fix"),
        [(f.op, f.rule, f.message, f.fix) for f in lint.findings],
        states=[state] * len(lint.findings),
    )


def runtime_table(lint: RuntimeLint) -> Table:
    """What a tool does with this file: each thing it does not take, and the way out."""
    title = f"{lint.title} {lint.version}"
    if not lint.findings:
        verdict = "nothing known stands against this file; what was run: " + lint.source
        return Table(title, ("verdict",), [(verdict,)], states=["good"])
    rows = [
        (f.verdict, f.op + (f" and {f.count - 1} more" if f.count > 1 else ""), f.message, f.fix) for f in lint.findings
    ]
    states: list[State] = ["warn" if f.verdict == "dense again" else "bad" for f in lint.findings]
    return Table(f"{title}: {lint.verdict}", ("verdict", "where", "finding", "fix"), rows, states=states)


def lint_summary(lint: SparseLint) -> str:
    """One line: what XNNPACK will do on ARM, and the first thing to change where it runs dense."""
    if lint.runs_sparse:
        many = "operator" if len(lint.sparse_ops) == 1 else "operators"
        return f"XNNPACK on ARM runs {len(lint.sparse_ops)} {many} of this file sparse"
    if not lint.findings:
        return "XNNPACK finds nothing to run sparse"
    first = lint.findings[0]
    return f"XNNPACK on ARM runs this file dense: {first.op}: {first.message} — {first.fix}"


def _totals(inspection: Inspection) -> list[tuple[str, str]]:
    share = inspection.zeros / inspection.entries if inspection.entries else 0.0
    return [
        ("entries", f"{inspection.entries} ({show(share, 'share')} zero)"),
        ("tensors", show(inspection.tensor_bytes, "bytes")),
        ("information bound", show(inspection.bound_bytes, "bytes")),
        ("on disk", show(inspection.size_bytes, "bytes")),
        ("download, gzip", show(inspection.gzip_bytes, "bytes")),
        ("download, brotli", show(inspection.brotli_bytes, "bytes")),
    ]
