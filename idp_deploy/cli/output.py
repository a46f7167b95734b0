"""stdout carries the result; everything else goes to stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from idp_deploy import files
from idp_deploy.rendering import RENDERERS, render
from idp_deploy.rendering.document import Document


def emit(document: Document, *, format: str = "text", json: bool = False, output: Path | None = None) -> None:
    """Print the document, or write it to `output`; on GitHub also append it to the step summary."""
    text = render(document, "json" if json else format)
    if output is None:
        sys.stdout.write(text)
    else:
        files.write_bytes(output, text.encode())
        say(f"wrote {output}")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if format == "github" and summary:
        with open(summary, "a", encoding="utf-8") as handle:
            handle.write(render(document, "markdown"))


def require_known(format: str) -> None:
    """Fail on an unknown report format before any work is done."""
    if format not in RENDERERS:
        render(Document(""), format)


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr)


def console() -> Console:
    """For progress bars; they are drawn only where stderr is a terminal."""
    return Console(stderr=True, highlight=False)
