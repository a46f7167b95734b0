"""Documents about methods held against each other on one task."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from idp_deploy.rendering.document import Bar, Document, Plot, State, Table
from idp_deploy.units import show

if TYPE_CHECKING:
    from idp_deploy.pruning.comparing import Comparison

_STATES: dict[str, State] = {"better": "good", "worse": "bad", "tie": ""}


def comparison_document(comparison: Comparison, metric: str) -> Document:
    """Mean hardened accuracy of every method, then each against the first, in points with a 95 % interval."""
    cells = list(dict.fromkeys((run.sparsity, run.method) for run in comparison.runs))
    means = [
        (
            show(sparsity, "share"),
            method,
            show(comparison.mean(method, sparsity), "share"),
            " ".join(
                f"{r.accuracy * 100:.2f}" for r in comparison.runs if (r.sparsity, r.method) == (sparsity, method)
            ),
        )
        for sparsity, method in cells
    ]
    gaps = [
        (
            show(d.sparsity, "share"),
            f"{d.method} − {d.reference}",
            f"{d.interval.middle * 100:+.2f}",
            f"{d.interval.low * 100:+.2f} to {d.interval.high * 100:+.2f}",
            d.verdict,
        )
        for d in comparison.differences
    ]
    tables = [
        Table(f"{metric}, hardened", ("zeros", "method", "mean", "by seed"), means, frozenset({2})),
        Table(
            "paired differences in points",
            ("zeros", "difference", "mean", "95 % interval", "verdict"),
            gaps,
            frozenset({2, 3}),
            [_STATES[d.verdict] for d in comparison.differences],
        ),
    ]
    bars = []
    for sparsity, method in cells:
        scores = [r.accuracy for r in comparison.runs if (r.sparsity, r.method) == (sparsity, method)]
        bars.append(
            Bar(f"{method} {sparsity:g}", comparison.mean(method, sparsity), min(scores), max(scores), comparison.dense)
        )
    plot = Plot(f"{metric} hardened; lines span the seeds, marks show the dense model", "share", bars)
    title = f"Comparison: dense {metric} {show(comparison.dense, 'share')}"
    return Document(title, tables, asdict(comparison), plots=[plot])
