"""render: Document → text, JSON, Markdown, JUnit, GitHub, HTML or PNG: the only place that lays out results."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

from idp_deploy.errors import UsageError
from idp_deploy.legible import escaped, told
from idp_deploy.rendering.document import Document

# name → module:function taking a Document and returning the report
RENDERERS: Mapping[str, str] = {
    "text": "idp_deploy.rendering.text:to_text",
    "json": "idp_deploy.rendering.machine:to_json",
    "junit": "idp_deploy.rendering.machine:to_junit",
    "github": "idp_deploy.rendering.machine:to_github",
    "markdown": "idp_deploy.rendering.markdown:to_markdown",
    "html": "idp_deploy.rendering.html:to_html",
    "png": "idp_deploy.rendering.drawing:to_png",  # bytes
}


def render(document: Document, name: str) -> str | bytes:
    """The report called `name`; bytes where it is a picture.

    Raises:
        UsageError: no such renderer; names the nearest.
    """
    if name not in RENDERERS:
        close = difflib.get_close_matches(name, RENDERERS, n=1)
        raise UsageError(
            f"unknown report format {name!r}",
            way_out=f"did you mean {close[0]!r}?" if close else f"one of {', '.join(RENDERERS)}",
        )
    module, _, function = RENDERERS[name].partition(":")
    renderer: Callable[[Document], str | bytes] = getattr(import_module(module), function)
    return renderer(document if name == "json" else shown(document, lines=name == "github"))


def shown(document: Document, *, lines: bool = False) -> Document:
    """The document without its data, whose names do nothing to whatever shows it; on one line each unless `lines`."""
    return replace(told(replace(document, data={}), lines=lines), next=escaped(document.next).replace("\n", " "))
