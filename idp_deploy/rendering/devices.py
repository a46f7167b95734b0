"""Documents about device profiles: what they are, what they run, and where every number comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from idp_deploy.rendering.document import Document, Table
from idp_deploy.rendering.estimates import rests_on

if TYPE_CHECKING:
    from idp_deploy.flow import Basis
    from idp_deploy.simulation.targets import Runtime, Target


def devices_document(
    targets: Sequence[Target],
    evidence: Mapping[str, tuple[int, Sequence[Basis | None]]],
    unusable: Sequence[Exception] = (),
) -> Document:
    """One row a device, and a note for each file that is none.

    Args:
        evidence: target → its published measurements, and what an estimate rests on for each of its runtimes.
    """
    rows = [
        (
            t.name,
            t.device,
            t.soc,
            " ".join(dict.fromkeys(r.format for r in t.runtimes)),
            t.confidence,
            _rows(t, evidence[t.name][0]),
            _behind(evidence[t.name][1][0], t.runtimes[0]),
        )
        for t in targets
    ]
    columns = ("target", "device", "chip", "formats", "confidence", "measured rows", "estimates rest on")
    left_out = [str(error) for error in unusable]
    data = {"targets": [t.model_dump(mode="json") for t in targets], "left_out": left_out}
    notes = [f"left out: {message}" for message in left_out]
    return Document(
        "Targets", [Table("", columns, rows, frozenset({5}))], data, notes, next="idp-deploy targets pixel-4"
    )


def device_document(target: Target, bases: Sequence[Basis | None]) -> Document:
    """One device in full. `bases`: what an estimate rests on, for each of its runtimes."""
    facts = [
        ("chip", target.soc),
        ("cores", _cores(target) or "–"),
        ("memory", f"{target.ram_gb:g} GB" if target.ram_gb else "unknown"),
        ("memory bandwidth", f"{target.dram_gb_per_s:g} GB/s at the peak" if target.dram_gb_per_s else "unknown"),
        ("confidence", target.confidence),
    ]
    runtimes = [
        (r.name, r.format, r.core or "–", "yes" if r.sparse else "no", _behind(basis, r), r.source or "–")
        for r, basis in zip(target.runtimes, bases, strict=True)
    ]
    tables = [
        Table("", ("what", "value"), facts),
        Table("runtimes", ("runtime", "format", "core", "runs zeros sparse", "estimates rest on", "source"), runtimes),
        Table("sources", ("source",), [(source,) for source in target.sources]),
    ]
    if target.measurements:
        measured = [
            (m.model, m.runtime, str(m.threads), m.precision, f"{m.latency_ms:g} ms", m.source or "–")
            for m in target.measurements
        ]
        columns = ("model", "runtime", "threads", "precision", "latency", "source")
        tables.append(Table("your measurements", columns, measured, frozenset({2, 4})))
    title = f"{target.name}: {target.device}"
    return Document(title, tables, {"target": target.model_dump(mode="json")}, target.notes)


def _behind(basis: Basis | None, runtime: Runtime) -> str:
    if not runtime.core:
        return "the vendor's own software, run here"
    return rests_on(basis) if basis else "no published row: an anchor of yours"


def _rows(target: Target, published: int) -> str:
    """Published rows of the very device, and its user's own."""
    return f"{published} + {len(target.measurements)} yours" if target.measurements else str(published)


def _cores(target: Target) -> str:
    return " + ".join(f"{g.count}×{g.type} {g.ghz:g} GHz" for g in target.cores)
