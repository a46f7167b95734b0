"""What every command hands to a renderer: tables of text and charts beside the plain data they were made from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from idp_deploy.units import Scale, Unit, scale

State = Literal["", "good", "bad", "warn"]


def shell(path: Path) -> str:
    """A path in a command to be typed.

    >>> shell(Path("my nets/w.pt"))
    "'my nets/w.pt'"
    """
    return shlex.quote(str(path))


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
    """One bar of a chart. Values are in the base of the chart's unit; None is an unknown and draws nothing.

    `beside` is what the bar is held against, drawn in another tone behind it: the dense model's, an earlier run's.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    beside: float | None = None
    sparse: bool = False  # the runtime skips its zeros
    state: State = ""
    text: str = ""  # in place of the number in the chart's unit

    def extents(self) -> Iterator[float]:
        """Every value that the axis has to reach."""
        yield from (v for v in (self.value, self.high, self.limit, self.beside) if v is not None)


@dataclass(frozen=True)
class Chart:
    """Horizontal bars over one axis: a row a thing, a column a series, so that the same thing stands side by side."""

    title: str
    unit: Unit
    rows: Sequence[str]  # labels
    series: Mapping[str, Sequence[Bar]]  # name → a bar a row
    head: str = ""  # what the labels are: "layer", "target"
    beside: str = ""  # what `Bar.beside` is: "dense"
    note: str = ""  # how to read it
    reach: float | None = None  # the axis ends here, and what is beyond is cut
    least: float = 0.0  # the axis ends no earlier: a share is one of the whole

    def bars(self) -> Iterator[Bar]:
        """All of them."""
        for bars in self.series.values():
            yield from bars

    def telling(self, most: int) -> list[int]:
        """Places of so many rows, in their order: those that most columns have a value for, and some of every column.

        Of bytes and times it is the largest that tell, of shares any.

        >>> one, none = Bar(1.0), Bar(None)
        >>> Chart("", "ms", "abcd", {"x": [one, one, one, none], "y": [none, none, one, one]}).telling(2)
        [0, 2]
        >>> Chart("", "ms", "abcd", {"x": [one, Bar(3.0), one, Bar(2.0, beside=4.0)]}).telling(2)
        [1, 3]
        """
        columns = [[bar.value is not None for bar in bars] for bars in self.series.values()]
        sizes = [max(map(_extent, bars), default=0.0) for bars in zip(*self.series.values(), strict=True)]
        if self.unit == "share":
            sizes = [0.0] * len(sizes)
        every = sorted(range(len(self.rows)), key=lambda row: (-sum(column[row] for column in columns), -sizes[row]))
        queues = [[row for row in every if column[row]] for column in columns]
        turns = (row for turn in zip_longest(*queues) for row in turn if row is not None)
        return sorted([*dict.fromkeys([*turns, *every])][:most])

    @cached_property  # asked by every bar
    def axis(self) -> Scale:
        """The unit of every number, by the bars alone: what they are held against may be far larger."""
        return scale((bar.value for bar in self.bars()), self.unit)

    @cached_property  # asked by every bar
    def end(self) -> float:
        """Where the axis ends."""
        most = max((value for bar in self.bars() for value in bar.extents()), default=0.0)
        return max(self.least, most if self.reach is None else min(most, self.reach))


@dataclass(frozen=True)
class Point:
    """One value of a curve, with an optional interval."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curves:
    """Named series over a share of zeros, with a level to hold them against."""

    title: str
    unit: Unit
    series: Mapping[str, Sequence[Point]]
    level: tuple[str, float] | None = None


@dataclass(frozen=True)
class Step:
    """One station on the way from the dense model to the shipped file. `share`: its bytes of the largest's."""

    name: str
    facts: Sequence[str]
    share: float | None = None
    state: State = ""


@dataclass(frozen=True)
class Journey:
    """The way a model went, as one picture: stages that follow each other, then what came of them side by side."""

    title: str
    stages: Sequence[Step]
    ends: Sequence[Step] = ()


Picture = Chart | Curves | Journey


@dataclass(frozen=True)
class Document:
    """One command's result."""

    title: str
    tables: Sequence[Table] = ()
    data: Mapping[str, Any] = field(default_factory=dict)  # JSON-ready; becomes the json report
    notes: Sequence[str] = ()
    cases: Sequence[Case] = ()
    pictures: Sequence[Picture] = ()
    next: str = ""  # the command a user would type now
    summary: str = ""  # one line to end with

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return all(case.passed for case in self.cases)

    @property
    def drawn(self) -> tuple[Picture, ...]:
        """The pictures that have something in them."""
        return tuple(picture for picture in self.pictures if _is_filled(picture))


def _extent(bar: Bar) -> float:
    """How large it is, or was."""
    return max(bar.value or 0.0, bar.beside or 0.0)


def _is_filled(picture: Picture) -> bool:
    if isinstance(picture, Chart):
        return any(bar.value is not None for bar in picture.bars())
    return bool(picture.series if isinstance(picture, Curves) else picture.stages)
