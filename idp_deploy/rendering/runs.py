"""The document of `run --dry-run`: stages, why each would run, what it depends on, what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from idp_deploy.rendering.document import Document, State, Table
from idp_deploy.units import duration, show


@dataclass(frozen=True)
class Foretold:
    """One stage before it runs. `seconds` and `size_bytes` are of the last run, or expected where `rough`."""

    name: str
    why: str  # it runs; "" where it is done
    inputs: Sequence[str]
    outputs: Sequence[str]
    seconds: float | None = None
    size_bytes: int | None = None
    rough: bool = False


def plan_document(stages: Sequence[Foretold], notes: Sequence[str] = ()) -> Document:
    """What would run, and what would be left out, and why."""
    states: list[State] = ["" if one.why else "good" for one in stages]
    rows = [
        (
            one.name,
            "runs" if one.why else "done",
            one.why or "nothing changed",
            _about(one, _wait(one.seconds) if one.seconds is not None else "not timed yet") if one.why else "–",
            _about(one, show(one.size_bytes, "bytes")) if one.size_bytes else "–",
            ", ".join(one.outputs) or "the report",
        )
        for one in stages
    ]
    left = [one for one in stages if one.why]
    known = sum(one.seconds or 0.0 for one in left)
    untimed = [one.name for one in left if one.seconds is None]
    summary = f"{len(left)} of {len(stages)} stages would run"
    if left:
        beside = f" and {', '.join(untimed)}" if untimed else ""
        summary += f": {'about ' * (known >= 1)}{_wait(known)}{beside}" if known else ""
    return Document(
        "Run: what would be done",
        [
            Table("", ("stage", "", "because", "time", "size", "writes"), rows, frozenset({3, 4}), states),
            Table("inputs", ("stage", "depends on"), [(one.name, ", ".join(one.inputs)) for one in stages]),
        ],
        {"stages": [{**asdict(one), "runs": bool(one.why)} for one in stages]},
        notes,
        summary=summary,
        next="idp-deploy run" if left else "idp-deploy check",
    )


def _wait(seconds: float) -> str:
    """
    >>> _wait(0.004), _wait(75)
    ('under a second', '1 min 15 s')
    """
    return duration(seconds) if seconds >= 1 else "under a second"


def _about(one: Foretold, text: str) -> str:
    return f"≈ {text}" if one.rough and text[0].isdigit() else text
