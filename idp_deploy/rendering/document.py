"""What every command hands to a renderer: tables of text beside the plain data they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["", "good", "bad", "warn"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Table:
    """Rows of finished text. `states` colours a row; `numeric` columns are set to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    states: Sequence[State] = ()

    def state(self, row: int) -> State:
        """How this row is to be coloured."""
        return self.states[row] if row < len(self.states) else ""


@dataclass(frozen=True)
class Case:
    """One thing that passed or failed: a test case in JUnit, an annotation on GitHub."""

    suite: str
    name: str
    passed: bool
    message: str = ""
    file: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of a plot, with an optional interval. Values are in `unit`'s base."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Plot:
    """Horizontal bars, drawn only by the HTML report."""

    title: str
    unit: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Point:
    """One value of a curve, with an optional interval."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curves:
    """Named series over a share of zeros, with a level to hold them against, drawn only by the HTML report."""

    title: str
    unit: str
    series: Mapping[str, Sequence[Point]]
    level: tuple[str, float] | None = None


@dataclass(frozen=True)
class Document:
    """One command's result."""

    title: str
    tables: Sequence[Table] = ()
    data: Mapping[str, Any] = field(default_factory=dict)  # JSON-ready; becomes the json report
    notes: Sequence[str] = ()
    cases: Sequence[Case] = ()
    plots: Sequence[Plot | Curves] = ()
    next: str = ""  # the command a user would type now
    summary: str = ""  # one line to end with

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return all(case.passed for case in self.cases)
