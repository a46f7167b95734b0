"""A self-contained HTML page. Charts are tables whose cells hold a bar: what is drawn is also read and heard."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from idp_deploy.rendering.document import Bar, Chart, Curves, Document, Journey
from idp_deploy.rendering.drawing import curves_svg
from idp_deploy.units import Scale, show

FOLDED = 24  # rows of a table above which it is folded
WHOLE = 24  # characters of a name that stay on one line
SHOWN = 40  # rows of a chart; the others are folded


def to_html(document: Document) -> str:
    """One file without external references; the same document gives the same bytes."""
    return _environment().get_template("report.html.j2").render(_parts(document))


def to_fragment(document: Document) -> str:
    """The same for the inside of another page, such as a notebook's: its style reaches nothing around it."""
    return _environment().get_template("fragment.html.j2").render(_parts(document))


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("idp_deploy", "rendering"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def unbroken(text: str) -> Markup:
    """Text whose flags are not parted from their dashes at the end of a line, and long names only between their words.

    >>> str(unbroken("a < b (prune --target 0.9)"))
    'a &lt; b (prune <span class="flag">--target</span> 0.9)'
    """
    named = re.sub(rf"[\w./\\]{{{WHOLE + 1},}}", lambda found: parted(found[0]), str(escape(text)))
    return Markup(re.sub(r"--[a-z][a-z0-9-]*", r'<span class="flag">\g<0></span>', named))


def parted(name: str) -> Markup:
    """A name that goes on a second line behind a sign between its words, and not in the middle of one.

    >>> str(parted("body.0.conv_1"))
    'body.<wbr>0.<wbr>conv_<wbr>1'
    """
    return Markup(re.sub(r"(?<=[A-Za-z0-9])[._/\\]+(?=\w)", r"\g<0><wbr>", str(escape(name))))


def _parts(document: Document) -> dict[str, object]:
    sections = [_section(picture, index) for index, picture in enumerate(document.drawn)]
    return {
        "document": document,
        "sections": sections,
        "folded": FOLDED,
        "unbroken": unbroken,
        "parted": parted,
        "whole": WHOLE,
        "failed": [case for case in document.cases if not case.passed],
    }


def _section(picture: Chart | Curves | Journey, index: int) -> dict[str, object]:
    if isinstance(picture, Journey):
        return {"kind": "journey", "picture": picture}
    if isinstance(picture, Curves):
        rows = [
            (name, show(point.x, "share"), show(point.value, picture.unit), _span(point.low, point.high, picture))
            for name, points in picture.series.items()
            for point in points
        ]
        return {"kind": "curves", "picture": picture, "svg": curves_svg(picture, index), "rows": rows}
    axis = picture.axis
    shown = picture.telling(SHOWN)
    cells = [[_cell(bars[i], picture, axis) for bars in picture.series.values()] for i in range(len(picture.rows))]
    columns = list(picture.series)
    return {
        "kind": "chart",
        "picture": picture,
        "columns": columns,
        "unit": axis.suffix,
        "rows": [(picture.rows[row], cells[row]) for row in shown],
        "others": [(picture.rows[row], cells[row]) for row in range(len(cells)) if row not in shown],
        "longest": max(len(cell.text) for row in cells for cell in row),  # so that all tracks are as long
        "has_sparse": any(bar.sparse for bar in picture.bars()),
        "has_limit": any(bar.limit is not None for bar in picture.bars()),
    }


def _span(low: float | None, high: float | None, picture: Curves) -> str:
    return "" if low is None or high is None else f"{show(low, picture.unit)} to {show(high, picture.unit)}"


@dataclass(frozen=True)
class Cell:
    """One bar, laid out: every extent in percent of the track."""

    text: str
    said: str  # what the drawing shows besides, for who does not see it
    tone: str
    width: float
    cut: bool = False
    beside: float | None = None
    whisker: tuple[float, float] | None = None  # where it begins, how long it is
    limit: float | None = None


def _cell(bar: Bar, chart: Chart, axis: Scale) -> Cell:
    text = bar.text or axis.number(bar.value)
    if bar.value is None:
        return Cell(text, "", "none", 0.0)

    def place(value: float) -> float:
        return round(100 * min(max(value, 0.0), chart.end) / chart.end, 2) if chart.end > 0 else 0.0

    whisker, said = None, []
    if bar.sparse:
        said.append("runs sparse")
    if bar.low is not None and bar.high is not None:
        start = place(bar.low)
        whisker = (start, round(place(bar.high) - start, 2))
        if not bar.text:
            said.append(f"interval {axis.number(bar.low)} to {axis.text(bar.high)}")
    if bar.limit is not None and not bar.text:
        said.append(f"limit {axis.text(bar.limit)}")
    if bar.beside is not None and chart.beside:
        said.append(f"{chart.beside} {axis.text(bar.beside)}")
    return Cell(
        text,
        ", ".join(said),
        bar.state or ("sparse" if bar.sparse else "plain"),
        place(bar.value),
        bar.value > chart.end,
        None if bar.beside is None else place(bar.beside),
        whisker,
        None if bar.limit is None else place(bar.limit),
    )
