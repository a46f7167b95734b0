"""Documents about methods held against each other on one task."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from idp_deploy.rendering.document import Curves, Document, Point, State, Table
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
            " ".join(f"{score * 100:.2f}" for score in comparison.scores(method, sparsity)),
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
    if comparison.tuning:
        tables.append(_tuning(comparison))
    curves = Curves(
        f"{metric}, hardened: means with 95 % intervals",
        "share",
        {
            method: [
                Point(share, found.middle, found.low, found.high)
                for share in sorted({sparsity for sparsity, name in cells if name == method})
                if (found := comparison.interval(method, share)) is not None
            ]
            for method in dict.fromkeys(method for _, method in cells)
        },
        ("dense", comparison.dense),
    )
    title = f"Comparison: dense {metric} {show(comparison.dense, 'share')}"
    return Document(title, tables, asdict(comparison), pictures=[curves])


def _tuning(comparison: Comparison) -> Table:
    """What each method was given, and from how many settings it was chosen."""
    chosen = {(run.sparsity, run.method): run.settings for run in comparison.runs}
    rows = []
    for (sparsity, method), settings in chosen.items():
        tried = [run for run in comparison.tuning if (run.sparsity, run.method) == (sparsity, method)]
        different = {tuple(run.settings.items()) for run in tried}
        said = ", ".join(f"{name}={value}" for name, value in settings.items()) or "as shipped"
        rows.append((show(sparsity, "share"), method, f"{len(different)}", f"{len(tried)}", said))
    return Table(
        "settings, chosen on other seeds", ("zeros", "method", "tried", "runs", "chosen"), rows, frozenset({2, 3})
    )
