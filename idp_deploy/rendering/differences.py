"""Documents about two files, or two reports, held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from idp_deploy.flow import Estimate, Layer
from idp_deploy.rendering.document import Bar, Chart, Document, Picture, State, Table
from idp_deploy.units import METRICS, Unit, scale, show

if TYPE_CHECKING:
    from idp_deploy.diffing import Difference, FolderDifference, LayerChange, MetricChange

_STATES: dict[str, State] = {"better": "good", "worse": "bad", "removed": "warn"}


def difference_document(difference: Difference) -> Document:
    """Sizes, zeros and latencies of both, then the layers that are not the same."""
    old, new = difference.before.facts, difference.after.facts
    changed = difference.changed
    tables = [_summary_table(difference)]
    if changed:
        tables.append(
            Table(
                f"layers that changed: {len(changed)} of {len(difference.layers)}",
                ("layer", "what", "zeros", "bytes", "stored", "values"),
                [_row(layer) for layer in changed],
                frozenset({2, 3, 5}),
            )
        )
    data = {
        "before": {**asdict(difference.before), "path": str(old.path)},
        "after": {**asdict(difference.after), "path": str(new.path)},
        "layers": [{**asdict(layer), "kind": layer.kind} for layer in difference.layers],
    }
    same = "every layer is the same in both" if not changed else ""
    title = f"{old.path.name} → {new.path.name}"
    return Document(title, tables, data, pictures=_pictures(difference), summary=same)


def folders_document(found: FolderDifference) -> Document:
    """Of every pair its size and zeros in one table, then what differs in it; files that one folder alone has."""
    pairs = [(_title(pair), difference_document(pair)) for pair in found.pairs]
    tables = [Table("files", ("file", "size", "change", "zeros of prunable", "layers that changed"),
                    [_pair_row(pair) for pair in found.pairs], frozenset({1, 2, 3, 4}))]  # fmt: skip
    tables += [replace(t, title=": ".join(filter(None, (name, t.title)))) for name, one in pairs for t in one.tables]
    sides = [(pair.before.facts.size_bytes, pair.after.facts.size_bytes) for pair in found.pairs]
    pictures: list[Picture] = [_sizes("file", {name: both for (name, _), both in zip(pairs, sides, strict=True)})]
    pictures += [replace(picture, title=f"{name}: {picture.title}") for name, one in pairs for picture in one.pictures]
    alone = [f"{path}: only in {path.parent}" for path in (*found.removed, *found.added)]
    data = {
        "before": str(found.before),
        "after": str(found.after),
        "pairs": [one.data for _, one in pairs],
        "removed": [str(path) for path in found.removed],
        "added": [str(path) for path in found.added],
    }
    same = not alone and not any(pair.changed for pair in found.pairs)
    summary = "every layer of every file is the same in both" if same else ""
    return Document(f"{found.before} → {found.after}", tables, data, alone, pictures=pictures, summary=summary)


def reports_document(before: Path, after: Path, changes: Sequence[MetricChange]) -> Document:
    """Every budgeted value of two reports, worse ones first."""
    ordered = sorted(changes, key=lambda c: ["worse", "removed", "better", "added", "same"].index(c.kind))
    rows = [
        (
            c.target,
            f"{c.format} {c.artifact}".rstrip(),
            c.metric,
            show(c.before, METRICS[c.metric].unit),
            show(c.after, METRICS[c.metric].unit),
            _percent(c.ratio),
            c.kind,
        )
        for c in ordered
    ]
    columns = ("target", "format", "metric", "before", "after", "change", "verdict")
    table = Table("", columns, rows, frozenset({3, 4, 5}), [_STATES.get(c.kind, "") for c in ordered])
    labels = [" ".join(filter(None, (c.target, c.format, c.artifact, c.metric))) for c in ordered]
    bars = [
        Bar(c.ratio, beside=1.0 if c.ratio is not None else None, state=_STATES.get(c.kind, ""), text=_percent(c.ratio))
        for c in ordered
    ]
    chart = Chart("After, as a share of before", "share", labels, {"after": bars}, "budget", "before", "", 2.0)
    data = {"before": str(before), "after": str(after), "changes": [{**asdict(c), "kind": c.kind} for c in ordered]}
    return Document(f"{before.name} → {after.name}", [table], data, pictures=[chart])


def _summary_table(difference: Difference) -> Table:
    one, other = difference.before, difference.after
    old, new = one.facts, other.facts
    quantities: list[tuple[str, float | None, float | None, Unit]] = [
        ("size", old.size_bytes, new.size_bytes, "bytes"),
        ("download, gzip", one.gzip_bytes, other.gzip_bytes, "bytes"),
        ("download, brotli", one.brotli_bytes, other.brotli_bytes, "bytes"),
        ("zeros of prunable", old.sparsity, new.sparsity, "share"),
        ("prunable weights, millions", old.prunable / 1e6, new.prunable / 1e6, "error"),
    ]
    for before, after in zip(one.estimates, other.estimates, strict=True):
        times = [e.latency_ms.middle if e.latency_ms else None for e in (before, after)]
        quantities.append((f"latency on {before.target}", times[0], times[1], "ms"))
    rows = []
    for name, left, right, unit in quantities:
        axis = scale((left, right), unit)
        write = (lambda v: f"{v:.3f}") if unit == "error" else axis.text
        ratio = right / left if left and right is not None else None
        change = f"{((right or 0) - (left or 0)) * 100:+.1f} points" if unit == "share" else _percent(ratio)
        rows.append((name, write(left), write(right), change))
    return Table("", ("what", f"before ({old.format})", f"after ({new.format})", "change"), rows, frozenset({1, 2, 3}))


def _title(difference: Difference) -> str:
    """Both names, and once what is the same."""
    names = [side.facts.path.name for side in (difference.before, difference.after)]
    return " → ".join(dict.fromkeys(names))


def _pair_row(pair: Difference) -> tuple[str, ...]:
    old, new = pair.before.facts, pair.after.facts
    sizes = scale((old.size_bytes, new.size_bytes), "bytes")
    zeros = scale((old.sparsity, new.sparsity), "share")
    return (
        _title(pair),
        f"{_both(sizes.number(old.size_bytes), sizes.number(new.size_bytes))} {sizes.suffix}",
        _percent(new.size_bytes / old.size_bytes if old.size_bytes else None),
        f"{_both(zeros.number(old.sparsity), zeros.number(new.sparsity))} {zeros.suffix}",
        f"{len(pair.changed)} of {len(pair.layers)}",
    )


def _row(layer: LayerChange) -> tuple[str, ...]:
    before, after = layer.before, layer.after
    sides = [one for one in (before, after) if one is not None]
    shares = scale((one.zeros / max(one.entries, 1) for one in sides), "share")
    sizes = scale((one.size_bytes for one in sides), "bytes")
    zeros = _both(*(None if one is None else shares.number(one.zeros / max(one.entries, 1)) for one in (before, after)))
    size = _both(*(None if one is None else sizes.number(one.size_bytes) for one in (before, after)))
    stored = _both(*(None if one is None else one.encoding for one in (before, after)))
    moved = "–" if layer.moved is None else f"±{layer.moved * 100:{'.0f' if layer.moved >= 0.995 else '.2g'}} %"
    return layer.name, layer.kind, f"{zeros} {shares.suffix}", f"{size} {sizes.suffix}", stored, moved


def _both(before: str | None, after: str | None) -> str:
    """`12.2 → 90.0`, and once what is the same."""
    return before if before == after and before else f"{before or '–'} → {after or '–'}"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{(ratio - 1) * 100:+.1f} %"


def _pictures(difference: Difference) -> list[Chart]:
    """After, with before behind it."""
    one, other = difference.before, difference.after
    rows = [layer.name for layer in difference.layers]

    def chart(title: str, unit: Unit, of: str, least: float = 0.0) -> Chart:
        bars = [
            Bar(_value(layer.after, of), beside=_value(layer.before, of), text="" if layer.after else layer.kind)
            for layer in difference.layers
        ]
        return Chart(title, unit, rows, {"after": bars}, "layer", "before", least=least)

    latencies = [_latency(before, after) for before, after in zip(one.estimates, other.estimates, strict=True)]
    targets = [f"{before.target}" for before in one.estimates]
    note = "The whisker is the 90 % interval. Behind each bar: the first file."
    sizes = {
        "on disk": (one.facts.size_bytes, other.facts.size_bytes),
        "gzip": (one.gzip_bytes, other.gzip_bytes),
        "brotli": (one.brotli_bytes, other.brotli_bytes),
    }
    return [
        _sizes("as", sizes),
        Chart("Latency, simulated", "ms", targets, {"after": latencies}, "target", "before", note),
        chart("Zeros of each layer", "share", "sparsity", least=1.0),
        chart("Bytes of each layer", "bytes", "size_bytes"),
    ]


def _sizes(head: str, sizes: Mapping[str, tuple[float | None, float | None]]) -> Chart:
    """Bytes after, with those before behind them."""
    bars = [Bar(after, beside=before) for before, after in sizes.values()]
    return Chart("Size", "bytes", [*sizes], {"after": bars}, head, "before", "Behind each bar: the first file.")


def _latency(before: Estimate, after: Estimate) -> Bar:
    beside, span = before.latency_ms.middle if before.latency_ms else None, after.latency_ms
    if span is None:
        return Bar(None, beside=beside, text="not estimable")
    sparse = any(op.runs_sparse for op in after.ops)
    return Bar(span.middle, span.low, span.high, beside=beside, sparse=sparse)


def _value(layer: Layer | None, of: str) -> float | None:
    if layer is None:
        return None
    return layer.zeros / max(layer.entries, 1) if of == "sparsity" else float(layer.size_bytes)
