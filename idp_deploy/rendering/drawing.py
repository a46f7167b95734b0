"""The pictures of a report by matplotlib: curves for the HTML page, and all of them as one PNG for a pull request."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO, StringIO
from itertools import islice
from typing import TYPE_CHECKING, Any

from idp_deploy.rendering.document import Chart, Curves, Document, Journey, Picture, Step
from idp_deploy.rendering.lettering import families, written
from idp_deploy.units import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = "osD^vP*X"  # told apart without colour, too
# of lines, then what the page calls them, so that a dark one can have others
SERIES = {"#2f6f9f": "c1", "#c2571a": "c2", "#4b8b3b": "c3", "#8a5aa8": "c4", "#a63d5c": "c5", "#8a6d1d": "c6"}
INK, FAINT, GHOST, PLAIN, SPARSE = "#1b2a3a", "#55636f", "#d3dbe2", "#2f6f9f", "#2e8b57"
TONES = {"": PLAIN, "good": "#2e8b57", "bad": "#c0392b", "warn": "#b7791f"}
WIDTH, DPI = 9.0, 110  # inches
_INSIDE, _CHARACTER, _LINE = WIDTH - 0.2, 0.056, 0.165  # inches: of a line of boxes, of a letter and a line in them
_LONGEST = 48  # characters of a label or a line
_TALLEST, _BROADEST = 40, 6  # rows and columns of a chart in a picture; a page has all of them


def curves_svg(plot: Curves, index: int) -> str:
    """Inline SVG whose colours are the page's."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": f"idp-deploy-{index}", "svg.fonttype": "none", "font.size": 10}):
        figure = _figure(5.4, 3.6 + 0.25 * ((len(plot.series) + 2) // 2))
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        _curves(axes, plot)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)
    for colour, name in SERIES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)").replace("#000000", "currentColor")


def to_png(document: Document) -> bytes:
    """Every picture of the document below the other, on white; the title alone where there is none."""
    import matplotlib

    pictures = [_narrowed(picture) if isinstance(picture, Chart) else picture for picture in document.drawn]
    heights = [_height(picture) for picture in pictures]
    fonts = list(families())
    with matplotlib.rc_context({
        "font.family": fonts, "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": FAINT,
    }):  # fmt: skip
        figure = _figure(WIDTH, sum(heights) + 0.6)
        figure.suptitle(_plain(document.title), x=0.01, ha="left", fontsize=13, fontweight="bold")
        grid = figure.add_gridspec(max(len(pictures), 1), 1, height_ratios=heights or [1])
        for row, picture in enumerate(pictures):
            _draw(figure, grid[row], picture)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _height(picture: Picture) -> float:
    if isinstance(picture, Journey):
        return 0.4 + _depth(_packed(picture))
    if isinstance(picture, Curves):
        return 4.0
    return 0.8 + 0.27 * min(len(picture.rows), _TALLEST)


def _draw(figure: Figure, cell: Any, picture: Picture) -> None:
    if isinstance(picture, Chart):
        grid = cell.subgridspec(1, len(picture.series), wspace=0.04)
        first = None
        for column, name in enumerate(picture.series):
            axes = figure.add_subplot(grid[column], sharey=first)
            _bars(axes, picture, name, labelled=first is None)
            first = first or axes
        return
    axes = figure.add_subplot(cell)
    if isinstance(picture, Curves):
        axes.set_title(_plain(picture.title), loc="left", fontsize=11, fontweight="bold")
        _curves(axes, picture)
    else:
        _journey(axes, picture)


def _narrowed(chart: Chart) -> Chart:
    """With as many columns as can be read side by side, the first."""
    if len(chart.series) <= _BROADEST:
        return chart
    title = f"{chart.title} ({_BROADEST} of {len(chart.series)} columns)"
    return replace(chart, title=title, series=dict(islice(chart.series.items(), _BROADEST)))


def _bars(axes: Axes, chart: Chart, name: str, *, labelled: bool) -> None:
    axis = chart.axis
    shown = chart.telling(_TALLEST)
    labels, bars = [chart.rows[row] for row in shown], [chart.series[name][row] for row in shown]
    end = chart.end or 1.0
    for y, bar in enumerate(bars):
        if bar.beside is not None:
            axes.barh(y, min(bar.beside, end), color=GHOST, height=0.78)
        if bar.value is None:
            axes.annotate(
                _plain(bar.text) or "–", (0, y), xytext=(5, 0), textcoords="offset points", va="center", color=FAINT
            )
            continue
        tone = SPARSE if bar.sparse and not bar.state else TONES[bar.state]
        axes.barh(y, min(bar.value, end), color=tone, height=0.5)
        reach = min(bar.value, end)
        if bar.low is not None and bar.high is not None and bar.low < end:
            axes.plot([bar.low, min(bar.high, end)], [y, y], color=INK, linewidth=1.3, marker="|", markersize=6)
            reach = max(reach, min(bar.high, end))
        if bar.limit is not None and bar.limit <= end:
            axes.plot([bar.limit] * 2, [y - 0.42, y + 0.42], color=TONES["bad"], linewidth=2)
            reach = max(reach, bar.limit)
        reach = max(reach, min(bar.beside or 0.0, end))
        text = bar.text or axis.number(bar.value)
        axes.annotate(_plain(text), (reach, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    longest = max((len(_plain(bar.text or axis.number(bar.value))) for bar in chart.bars()), default=4)
    beside = max(1.8, 0.075 * max((len(_row(label)) for label in labels), default=0))  # inches of the rows' names
    room = (WIDTH - 0.4 - beside) / len(chart.series)
    share = min(0.6, 0.075 * longest / room)  # of the axis that the longest text takes
    axes.set_xlim(0, end / (1 - share) * 1.02)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), [_row(label) for label in labels])
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_locator(_ticks(end, axis.factor, len(chart.series) < 4))
    axes.xaxis.set_major_formatter(lambda value, _: axis.number(value) if value <= end * 1.001 else "")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if labelled:
        which = "first " if shown == [*range(len(shown))] else ""
        left = f" ({which}{_TALLEST} of {len(chart.rows)})" if len(chart.rows) > _TALLEST else ""
        _over_all(axes, _plain(chart.title) + left + _legend(chart))
    unit = _plain(f"{name}, {axis.suffix}" if axis.suffix else name)
    axes.set_xlabel(
        unit.replace(" ", "\n") if len(chart.series) > 3 else unit, fontsize=9 if len(chart.series) < 5 else 7
    )


def _over_all(axes: Axes, title: str) -> None:
    """Above the first of several axes, which is no wider for it; the empty title keeps the room."""
    axes.set_title(" ", loc="left", fontsize=11)
    place = axes.annotate(title, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points")
    place.set(fontsize=11, fontweight="bold", in_layout=False)


def _legend(chart: Chart) -> str:
    """What the bars behind and the marks are, where there are any and columns wide enough to say so."""
    if len(chart.series) > 3:
        return ""
    told = [f"grey: {_plain(chart.beside)}"] if chart.beside else []
    told += ["red line: limit"] if any(bar.limit is not None for bar in chart.bars()) else []
    return f" ({', '.join(told)})" if told else ""


def _ticks(end: float, factor: float, wide: bool) -> Any:
    """At round numbers of the axis' unit, which is `factor` of the base unit."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    found = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(0.0, end / factor)
    ticks = [tick * factor for tick in found if 0 <= tick * factor <= end * 1.001]
    return FixedLocator(ticks if wide else [ticks[0], ticks[-1]])


def _journey(axes: Axes, journey: Journey) -> None:
    """Boxes from left to right, onto a next line where one is full; axes in inches, from the top."""
    axes.set_title(_plain(journey.title), loc="left", fontsize=11, fontweight="bold")
    axes.set_axis_off()
    placed = _packed(journey)
    axes.set_xlim(0, _INSIDE)
    axes.set_ylim(_depth(placed), 0)
    for i, (step, x, y) in enumerate(placed):
        edge = TONES[step.state] if step.state else GHOST
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#f4f7f9", "edgecolor": edge}
        text = "\n".join(map(_plain, (step.name, *step.facts)))
        axes.text(x + 0.1, y + 0.12, text, va="top", ha="left", fontsize=8, bbox=box, linespacing=1.5)
        if 0 < i <= len(journey.stages):
            axes.annotate("→", (x - 0.12, y + 0.18), va="center", ha="right", color=FAINT)


def _packed(journey: Journey) -> list[tuple[Step, float, float]]:
    """Each box with the place of its upper left corner, in inches."""
    placed, x, y, deepest = [], 0.0, 0.0, 0.0
    for step in (*journey.stages, *journey.ends):
        width = 0.5 + _CHARACTER * min(_LONGEST, max(map(len, (step.name, *step.facts))))
        if x and x + width > _INSIDE:
            x, y = 0.3, y + deepest
            deepest = 0.0
        placed.append((step, x, y))
        x, deepest = x + width, max(deepest, _tall(step))
    return placed


def _tall(step: Step) -> float:
    return 0.4 + _LINE * (1 + len(step.facts))


def _depth(placed: list[tuple[Step, float, float]]) -> float:
    return max((y + _tall(step) for step, _, y in placed), default=0.5)


def _curves(axes: Axes, plot: Curves) -> None:
    """Evenly spaced shares: 90, 95 and 98 % would else crowd at one end. Series stand side by side at each."""
    shares = sorted({point.x for points in plot.series.values() for point in points})
    colours = list(SERIES)
    for i, (name, points) in enumerate(plot.series.items()):
        aside = 0.5 * ((i + 0.5) / len(plot.series) - 0.5)
        x = [shares.index(point.x) + aside for point in points]
        reach = [
            [point.value - (point.value if point.low is None else point.low) for point in points],
            [(point.value if point.high is None else point.high) - point.value for point in points],
        ]
        axes.errorbar(
            x,
            [p.value for p in points],
            yerr=reach,
            label=_plain(name),
            marker=_MARKS[i % len(_MARKS)],
            color=colours[i % len(colours)],
            capsize=3,
        )
    if plot.level is not None:
        axes.axhline(plot.level[1], color=FAINT, linewidth=1, linestyle="--", label=_plain(plot.level[0]))
    axes.set_xticks(range(len(shares)), [f"{show(share, 'share')} zeros" for share in shares])
    axes.margins(x=0.1)
    axes.yaxis.set_major_formatter(lambda value, _: show(value, plot.unit))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)


def _row(label: str) -> str:
    """A row's name; of a long one the end, which tells layers of one kind apart."""
    whole = written(label)
    return whole if len(whole) <= _LONGEST else f"…{whole[1 - _LONGEST :]}"


def _plain(label: str) -> str:
    """No mathematics, and no longer than a picture has room for."""
    whole = written(label)
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST // 2]}…{whole[1 - _LONGEST // 2 :]}"
