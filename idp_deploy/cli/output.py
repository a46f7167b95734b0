"""stdout carries the result; everything else goes to stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from idp_deploy import files
from idp_deploy.cli.streams import unheard
from idp_deploy.errors import UsageError
from idp_deploy.formats import WEIGHTS, is_package, suffixes
from idp_deploy.legible import on_a_line, uncommanding
from idp_deploy.ownership import claim
from idp_deploy.rendering import RENDERERS, render
from idp_deploy.rendering.document import Document

MODELS = (*suffixes(), *WEIGHTS)  # of files that no report replaces


def emit(document: Document, *, format: str = "text", json: bool = False, output: Path | None = None) -> None:
    """Print the document, or write it to `output`; on GitHub also append it to the step summary."""
    report = render(document, "json" if json else format)
    content = report if isinstance(report, bytes) else report.encode()
    if output is not None:
        files.write_bytes(output, content)
        say(f"wrote {output}")
    else:
        try:
            if isinstance(report, bytes):
                sys.stdout.buffer.write(content)
            else:
                sys.stdout.write(report)
            sys.stdout.flush()
        except BrokenPipeError:
            unheard()
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if format == "github" and summary:
        with open(summary, "a", encoding="utf-8") as handle:
            handle.write(str(render(document, "markdown")))


def ready(format: str, output: Path | None = None, *sources: Path) -> None:
    """Fail before any work is done: on an unknown report format, or where no report can be written.

    Args:
        sources: files that the command reads and the report may not replace.
    """
    if format not in RENDERERS:
        render(Document(""), format)
    if format == "png" and output is None and sys.stdout.isatty():
        raise UsageError("a picture is nothing for a terminal", way_out="pass -o report.png, or send stdout to a file")
    if output is None:
        return
    if writable(output, *sources).is_file() and Path(os.path.realpath(output)).suffix.lower() in MODELS:
        raise UsageError(f"-o {output} is a model that stands there", way_out="name another one, and it stays")


def writable(path: Path, *sources: Path) -> Path:
    """`path`, if a file can be written there: better said before training than after.

    Raises:
        UsageError: it is one of the files that the command reads, a part of a package, or a configuration, its own or
            another's.
        UsageError, FileError: as `files.landing`.
    """
    where = Path(os.path.realpath(path))  # a folder on the way that is not there yet may be left again: new/../m.onnx
    if where.exists() and any(source.exists() and where.samefile(source) for source in sources):
        raise UsageError(f"-o {path} is the file to read", way_out="name another one, and what went in stays as it is")
    if package := next((one for one in where.parents if is_package(one)), None):
        raise UsageError(f"-o {path} lies in the package {package.name}", way_out="name a place outside of it")
    if where.suffix.lower() == ".toml" and where.is_file():
        raise UsageError(f"-o {path} is a configuration that stands there", way_out="name another one, and it stays")
    files.landing(path)
    return path


def output_path(named: Path | None, default: Path, source: Path) -> Path:
    """Where a checkpoint goes: to `-o`, else to `default`, where nobody else's file may be in its way.

    Raises:
        UsageError, FileError: as `writable` and `claim`.
    """
    return writable(named, source) if named else writable(claim(default), source)


def say(message: str) -> None:
    """One line on stderr."""
    print(uncommanding(on_a_line(message)), file=sys.stderr)


def console() -> Console:
    """For progress bars; they are drawn only where stderr is a terminal."""
    return Console(stderr=True, highlight=False)
