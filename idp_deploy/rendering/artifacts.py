"""Documents about files: what export wrote, what verify proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.errors import IdpDeployError
from idp_deploy.flow import Artifact, CompressedModel, FileFacts, FormatName, Parity, WeightProof
from idp_deploy.ledger import shortfall, summary
from idp_deploy.rendering.document import Case, Document, State, Table, shell
from idp_deploy.rendering.figures import report_pictures
from idp_deploy.rendering.inspections import lint_summary
from idp_deploy.units import show

if TYPE_CHECKING:
    from idp_deploy.formats.sparse_kernels import SparseLint
    from idp_deploy.restoring import Restored


def export_document(
    artifacts: Sequence[Artifact],
    parities: Mapping[Path, Parity],
    dense: Mapping[FormatName, int],
    lint: SparseLint | None = None,
    *,
    model: CompressedModel,
    next: str = "",
    refused: Mapping[FormatName, IdpDeployError] | None = None,
    files: Sequence[FileFacts] = (),
) -> Document:
    """What was written, how much smaller it is than the same model stored dense, and whether it agrees."""
    model = model.without(set.intersection(*(set(a.unread) for a in artifacts)) if artifacts else ())
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
        states.append(parity_state(parity))
        if parity:
            cases += parity_cases(parity)
    for format, error in (refused or {}).items():
        rows.append((format, "not written", "–", "–", str(error)))
        states.append("bad")
        cases.append(Case("export", format, False, str(error), ""))
    notes = [f"{a.format}: {note}" for a in artifacts for note in a.notes]
    said = {summary(model), shortfall(model)}
    notes += [f"{p.artifact.format}: {note}" for p in parities.values() for note in p.notes if note not in said]
    if lint is not None:
        notes.append(f"tflite: {lint_summary(lint)}")
    columns = ("format", "file", "size", "of dense", "verified")
    data = {
        "artifacts": [
            {
                "format": a.format,
                "path": str(a.path),
                "size_bytes": a.size_bytes,
                "dense_bytes": dense.get(a.format),
                "parity": parity_data(parities[a.path]) if a.path in parities else None,
                "layouts": _layouts(a),
                "manifest": dict(a.manifest),
            }
            for a in artifacts
        ],
        "zeros": model.zeros,
        "prunable": model.prunable,
        "sparsity": model.sparsity,
        "warnings": list(filter(None, [shortfall(model)])),
        "refused": {format: str(error) for format, error in (refused or {}).items()},
    }
    table = Table("", columns, rows, frozenset({2, 3}), states)
    pictures = report_pictures(files, [], parities=list(parities.values()))
    return Document("Export", [table], data, notes, cases, pictures, summary=summary(model), next=next)


def _layouts(artifact: Artifact) -> dict[str, dict[str, str]]:
    """The layout of each input and output: "model", or what the file has instead."""
    turned = artifact.manifest.get("layouts", {})
    return {
        side: {name: turned.get(name, "model") for name in artifact.manifest.get(side, ())}
        for side in ("inputs", "outputs")
    }


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
    weights = [Case(suite, f"weight {w.parameter}", w.passed, _of_a_weight(w), file) for w in parity.weights]
    return outputs + weights


def _of_a_weight(proof: WeightProof) -> str:
    """Zeros, and for a failed proof what differs."""
    if not proof.tensor and not proof.passed:
        return f"no tensor of the file is like it; {proof.expected_zeros} zeros expected"
    if isnan(proof.max_relative_error) and not proof.passed:
        return "not what a fresh export of the model holds, or none could be made: see the notes"
    counts = f"{proof.zeros} zeros in the file, {proof.expected_zeros} expected"
    if proof.passed:
        return counts
    return f"{counts}; values differ from '{proof.tensor}' by up to {proof.max_relative_error:.1e} of the largest"


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


def parity_document(parity: Parity, facts: FileFacts | None = None, model: CompressedModel | None = None) -> Document:
    """Every output of every runtime, then every weight proved from the file.

    Args:
        facts: what the file holds, for the pictures.
        model: what it was held against.
    """
    outputs = Table(
        "outputs against the model" if parity.held else "outputs, runtime against runtime",
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
        [verdict(o.passed) for o in parity.outputs],
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
                [verdict(w.passed) for w in parity.weights],
            )
        )
    if parity.metrics:
        rows = [(runtime, f"{value * 100:.2f} %") for runtime, value in parity.metrics.items()]
        tables.append(Table("accuracy of the file on the task", ("runtime", "accuracy"), rows, frozenset({1})))
    found = "agrees with the model" if parity.held else "runs here, held against no model"
    title = f"{parity.artifact.path}: {found if parity.passed else 'FAILED verification'}"
    said = summary(model) if model is not None and model.prunable else ""
    return Document(
        title,
        tables,
        parity_data(parity),
        [note for note in parity.notes if note != said],
        parity_cases(parity),
        report_pictures([facts], [], parities=[parity]) if facts else [],
        summary=said,
    )


def verdict(passed: bool) -> State:
    """How a verdict is coloured."""
    return "good" if passed else "bad"


def parity_state(parity: Parity | None) -> State:
    """A file that was not verified is a warning, not a success."""
    return "warn" if parity is None else verdict(parity.passed)


def restored_document(restored: Restored) -> Document:
    """What restore wrote, and how much smaller it is."""
    share = show(restored.zeros / max(restored.entries, 1), "share")
    rows = [
        ("stored densely", str(restored.source), show(restored.before_bytes, "bytes")),
        ("stored sparse", str(restored.path), show(restored.after_bytes, "bytes")),
    ]
    return Document(
        f"wrote {restored.path}",
        [Table("", ("what", "file", "size"), rows)],
        asdict(restored) | {"source": str(restored.source), "path": str(restored.path)},
        [f"{share} zeros; {restored.outputs} outputs in {' and '.join(restored.runtimes)} are bit-equal"],
        next=f"idp-deploy inspect {shell(restored.path)}",
    )
