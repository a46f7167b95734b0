"""A self-contained HTML page: tables, and bar plots drawn by matplotlib as inline SVG."""

from __future__ import annotations

import re
from io import StringIO

from jinja2 import Environment, PackageLoader, select_autoescape

from idp_deploy.rendering.document import Document, Plot
from idp_deploy.units import show

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
    plots = [(plot.title, _svg(plot, index)) for index, plot in enumerate(document.plots) if plot.bars]
    return environment.get_template("report.html.j2").render(document=document, plots=plots)


def _svg(plot: Plot, index: int) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": f"idp-deploy-{index}", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8, 0.6 + 0.34 * len(plot.bars)), layout="constrained")
        axes = figure.subplots()
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
        axes.set_yticks(list(positions), [bar.label.replace("$", r"\$") for bar in plot.bars])
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: show(value, plot.unit))  # type: ignore[arg-type]
        axes.spines[["top", "right"]].set_visible(False)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)
