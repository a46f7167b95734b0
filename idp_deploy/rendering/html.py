"""A self-contained HTML page: tables, and plots drawn by matplotlib as inline SVG."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from idp_deploy.rendering.document import Curves, Document, Plot
from idp_deploy.units import show

_MARKS = "osD^vP*X"  # told apart without colour, too
FAR = 5  # a limit this many times beyond its bar is left out: it would flatten every other bar


def to_html(document: Document) -> str:
    """One file without external references; the same document gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("idp_deploy", "rendering"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    plots = [(plot.title, _svg(plot, index)) for index, plot in enumerate(document.plots) if not _empty(plot)]
    return environment.get_template("report.html.j2").render(document=document, plots=plots)


def _empty(plot: Plot | Curves) -> bool:
    return not (plot.series if isinstance(plot, Curves) else plot.bars)


def _svg(plot: Plot | Curves, index: int) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": f"idp-deploy-{index}", "svg.fonttype": "none", "font.size": 10}):
        height = 4.2 if isinstance(plot, Curves) else 0.6 + 0.34 * len(plot.bars)
        figure = Figure(figsize=(8, height), layout="constrained")
        axes = figure.subplots()
        if isinstance(plot, Curves):
            _curves(axes, plot)
        else:
            _bars(axes, plot)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)


def _bars(axes: Any, plot: Plot) -> None:
    positions = range(len(plot.bars))
    axes.barh(positions, [bar.value for bar in plot.bars], color="#4878a8", height=0.62)
    for position, bar in zip(positions, plot.bars, strict=True):
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [position, position], color="#1b2a3a", linewidth=1.6, marker="|")
        end = max(bar.value, bar.high or 0.0)
        if bar.limit is not None and bar.limit < FAR * end:
            over = bar.value > bar.limit
            color = "#c0392b" if over else "#2e8b57"
            axes.plot([bar.limit] * 2, [position - 0.42, position + 0.42], color=color, linewidth=2.2)
        axes.annotate(
            show(bar.value, plot.unit),  # type: ignore[arg-type]
            (end, position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(list(positions), [_plain(bar.label) for bar in plot.bars])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: show(value, plot.unit))  # type: ignore[arg-type]


def _curves(axes: Any, plot: Curves) -> None:
    """Evenly spaced shares: 90, 95 and 98 % would else crowd at one end. Series stand side by side at each."""
    shares = sorted({point.x for points in plot.series.values() for point in points})
    for i, (name, points) in enumerate(plot.series.items()):
        aside = 0.5 * ((i + 0.5) / len(plot.series) - 0.5)
        x = [shares.index(point.x) + aside for point in points]
        reach = [
            [point.value - (point.value if point.low is None else point.low) for point in points],
            [(point.value if point.high is None else point.high) - point.value for point in points],
        ]
        axes.errorbar(x, [p.value for p in points], yerr=reach, label=_plain(name), marker=_MARKS[i % len(_MARKS)])
    if plot.level is not None:
        axes.axhline(plot.level[1], color="#55636f", linewidth=1, linestyle="--", label=_plain(plot.level[0]))
    axes.set_xticks(range(len(shares)), [f"{show(share, 'share')} zeros" for share in shares])
    axes.margins(x=0.1)
    axes.yaxis.set_major_formatter(lambda value, _: show(value, plot.unit))  # type: ignore[arg-type]
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _plain(label: str) -> str:
    return label.replace("$", r"\$")
