"""Documents about time: estimates (simulated) and measurements (of this host), never in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.flow import Basis, EmulationCounts, Estimate, FileFacts, Interval, Measurement, VendorEstimate
from idp_deploy.rendering.document import Document, State, Table
from idp_deploy.rendering.figures import labels, layer_table, layer_times, report_pictures, told_apart
from idp_deploy.units import Scale, scale, show

if TYPE_CHECKING:
    from idp_deploy.simulation.advice import Advice


def interval(value: Interval | None, reason: str = "", axis: Scale | None = None) -> str:
    """`3.20 ms (2.60 to 3.90)`, in the unit of `axis` or its own; the reason where there is no number."""
    if value is None:
        return f"not estimable: {reason}" if reason else "not estimable"
    axis = axis or scale((value.middle,), "ms")
    return f"{axis.text(value.middle)} ({axis.number(value.low)} to {axis.number(value.high)})"


def rests_on(basis: Basis | None) -> str:
    """`18 rows of this device, ±9 %`; the error is the mean one of such predictions on rows they had not seen."""
    if basis is None:
        return "–"
    rows = f"{basis.rows} row{'s' * (basis.rows != 1)}"
    others = f"{rows} of {basis.devices} device{'s' * (basis.devices != 1)}"
    what = {
        "measured": f"{rows} of this device",
        "calibrated": others,
        "specification": f"specification, {others} with other runtimes",
        "anchored": f"your anchor, {others}" if basis.rows else "your anchor alone",
    }[basis.origin]
    return f"{what}, ±{basis.expected_error * 100:.0f} %" if basis.expected_error is not None else what


def estimate_table(estimates: Sequence[Estimate], title: str = "") -> Table:
    """One row a file and target. `skipped` is the share of MACs that sparse kernels leave out."""
    axis = scale((e.latency_ms.middle for e in estimates if e.latency_ms), "ms")
    names = told_apart((e.format, e.artifact) for e in estimates)
    return Table(
        title,
        ("target", "runtime", "latency (90 % interval)", "rests on", "size", "gzip", "memory", "skipped"),
        [
            (
                e.target,
                f"{e.runtime if e.latency_ms else f'{e.runtime} ({e.format})'} {names[e.artifact]}".rstrip(),
                interval(e.latency_ms, e.reason, axis),
                rests_on(e.basis),
                show(e.size_bytes, "bytes"),
                show(e.gzip_bytes or None, "bytes"),
                show(e.resident_weight_bytes + e.peak_activation_bytes, "bytes"),
                f"{(1 - e.executed_macs / e.macs) * 100:.0f} %" if e.macs else "–",
            )
            for e in estimates
        ],
        frozenset({2, 4, 5, 6, 7}),
        ["" if e.latency_ms else "warn" for e in estimates],
    )


def vendor_table(estimates: Sequence[Estimate]) -> Table:
    """What vendors' own software says: neither our estimate nor a measurement."""
    asked = [(e, e.vendor) for e in estimates if e.vendor]
    columns = (
        "target", "software", "latency", "cycles", "NPU cycles", "weights", "encoded", "flash", "SRAM", "arena",
        "flash read", "DRAM traffic", "on the CPU",
    )  # fmt: skip
    rows = [
        (
            e.target,
            v.software,
            show(v.latency_ms, "ms"),
            _count(v.cycles.get("total")),
            _count(v.cycles.get("npu")),
            show(v.original_weight_bytes, "bytes"),
            show(v.encoded_weight_bytes, "bytes"),
            show(v.flash_bytes, "bytes"),
            show(v.sram_bytes, "bytes"),
            show(v.arena_bytes, "bytes"),
            show(v.flash_traffic_bytes, "bytes"),
            show(v.dram_traffic_bytes, "bytes"),
            _on_cpu(v),
        )
        for e, v in asked
    ]
    states: list[State] = ["warn" if v.cpu_operators else "" for _, v in asked]
    return Table(
        "vendor estimates (by the vendor's software; no measurement)", columns, rows, frozenset(range(2, 13)), states
    )


def estimate_tables(estimates: Sequence[Estimate]) -> list[Table]:
    """Our estimates and vendors', each kind in a table of its own."""
    ours = [e for e in estimates if not e.vendor]
    tables = [TABLES["estimates"](ours)] if ours or not estimates else []
    return tables + ([vendor_table(estimates)] if len(ours) < len(estimates) else [])


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _on_cpu(vendor: VendorEstimate) -> str:
    return "–" if vendor.cpu_operators is None else f"{len(vendor.cpu_operators)} operators"


def vendor_notes(estimates: Sequence[Estimate]) -> list[str]:
    """What was asked, and each operator left on the CPU with the reason."""
    notes = []
    for e in estimates:
        if e.vendor:
            notes.append(f"{e.target}: asked for {e.vendor.setting}; {e.vendor.software} calls its times estimates")
            notes += [
                f"{e.target}: on the CPU: {op.kind} {op.name}: {op.reason}" for op in e.vendor.cpu_operators or ()
            ]
    return list(dict.fromkeys(notes))


def advice_table(found: Mapping[str, Sequence[Advice]]) -> Table:
    """What would pay most, before anything is trained for it: a change once, a column a file on a device."""
    told = {label: {one.change: one for one in changes} for label, changes in found.items()}
    every = list(dict.fromkeys(one.change for changes in found.values() for one in changes))
    axis = scale((one.latency_ms for changes in found.values() for one in changes), "ms")
    rows = [(change, *(_saved(changes.get(change), axis) for changes in told.values())) for change in every]
    return Table("what would pay (estimates)", ("change", *told), rows, frozenset(range(1, len(told) + 1)))


def _saved(advice: Advice | None, axis: Scale) -> str:
    return f"{axis.text(advice.latency_ms)}, −{advice.saved * 100:.0f} %" if advice else "–"


def count_table(counts: Sequence[EmulationCounts]) -> Table:
    """What the stock runtime executes under emulation, beside what the reader predicted. Counts, not times."""
    return Table(
        "executed by the emulated core (counts, not times)",
        ("target", "file", "core", "MACs", "dense MACs", "instructions", "runs sparse", "predicted"),
        [
            (
                c.target,
                c.artifact.name,
                c.core,
                f"{c.executed_macs / 1e6:.1f} M",
                f"{c.dense_macs / 1e6:.1f} M",
                f"{c.instructions / 1e6:.1f} M",
                "yes" if c.runs_sparse else "no",
                "sparse" if c.predicted_sparse else "dense",
            )
            for c in counts
        ],
        frozenset({3, 4, 5}),
        ["good" if c.runs_sparse == c.predicted_sparse else "warn" for c in counts],
    )


def estimate_notes(estimates: Sequence[Estimate]) -> list[str]:
    """Each note once, with the targets it is about."""
    return together((f"{e.target}/{e.format}", note) for e in estimates for note in e.notes)


def together(notes: Iterable[tuple[str, str]]) -> list[str]:
    """(what it is about, note) → each note once.

    >>> together([("onnx", "odd"), ("tflite", "odd")])
    ['onnx, tflite: odd']
    """
    about: dict[str, list[str]] = {}
    for what, note in notes:
        about.setdefault(note, []).append(what)
    return [f"{', '.join(dict.fromkeys(where))}: {note}" for note, where in about.items()]


def op_table(estimate: Estimate) -> Table:
    """Where the time goes, in execution order, in one unit."""
    axis = scale((op.latency_ms for op in estimate.ops), "ms")
    total = sum(op.latency_ms or 0.0 for op in estimate.ops) or 1.0
    return Table(
        f"{estimate.artifact.name} on {estimate.target}, op by op",
        ("layer", "class", "time", "share", "MACs", "run", "weights", "sparse"),
        [
            (
                op.layer or op.name,
                op.op_class,
                axis.text(op.latency_ms),
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


def measurement_table(measurements: Sequence[Measurement]) -> Table:
    """What ran here."""
    rows = [
        (m.artifact.name, m.runtime, str(m.threads), *(show(x, "ms") for x in (m.median_ms, m.low_ms, m.high_ms)))
        for m in measurements
    ]
    columns = ("file", "runtime", "threads", "median CPU", "25 %", "75 %")
    return Table(f"measured on this host ({measurements[0].host})", columns, rows, frozenset({2, 3, 4, 5}))


# the answers of a backend → their table
TABLES: dict[str, Callable[[Sequence[Any]], Table]] = {
    "estimates": lambda found: estimate_table(found, "estimates (simulated, not measured)"),
    "measurements": measurement_table,
    "counts": count_table,
}


def estimate_document(
    answers: Mapping[str, Sequence[Any]],
    *,
    layers: bool = False,
    changes: Mapping[tuple[Path, str], Sequence[Advice]] | None = None,
    files: Sequence[FileFacts] = (),
) -> Document:
    """What each backend says, never two in one table.

    Args:
        answers: backend → its nouns; the `estimates` are among them.
        changes: (file, target) → what would pay there.
    """
    estimates = answers["estimates"]
    tables = estimate_tables(estimates)
    if layers:
        timed = [e for e in estimates if e.ops and e.latency_ms]
        if len(timed) > 1:
            tables.append(layer_table(layer_times(timed), "time of each layer"))
        else:
            tables += [op_table(e) for e in timed]
        paying = [(e, found) for e in estimates if (found := (changes or {}).get((e.artifact, e.target)))]
        names = labels((e.artifact.name, f"{e.target} {e.format}") for e, _ in paying)
        tables += [advice_table(dict(zip(names, (found for _, found in paying), strict=True)))] if paying else []
    others = {name: found for name, found in answers.items() if name != "estimates"}
    tables += [TABLES[name](found) for name, found in others.items() if found]
    data = {name: [asdict(one) for one in answers.get(name, ())] for name in sorted({*TABLES, *answers})}
    data["files"] = [asdict(one) for one in files]
    noted = [one for found in others.values() for one in found if hasattr(one, "notes")]
    notes = (
        estimate_notes(estimates)
        + vendor_notes(estimates)
        + [f"{one.target}/{one.artifact.name}: {note}" for one in noted for note in one.notes]
    )
    return Document("Simulation", tables, data, notes, pictures=report_pictures(files, estimates))
