"""stdout carries the result; everything else goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from idp_deploy import files
from idp_deploy.cli.streams import results, unheard
from idp_deploy.errors import UsageError
from idp_deploy.formats import WEIGHTS, is_package, suffixes
from idp_deploy.legible import on_a_line, uncommanding
from idp_deploy.ownership import SAVED, claim, is_ours
from idp_deploy.rendering import RENDERERS, render
from idp_deploy.rendering.document import Document

MODELS = (*suffixes(), *WEIGHTS)  # of files that no report replaces
REPORTS = (".txt", ".log", ".out", ".md", ".markdown", ".json", ".xml", ".html", ".htm", ".png", "")


def emit(document: Document, *, format: str = "text", json: bool = False, output: Path | None = None) -> None:
    """Print the document, or write it to `output`; on GitHub also append it to the step summary."""
    report = render(document, "json" if json else format)
    content = report if isinstance(report, bytes) else report.encode()
    if output is not None:
        wrote = written(output)
        files.write_bytes(output, content)
        say(wrote)
    else:
        try:
            if isinstance(report, bytes):
                results().buffer.write(content)
            else:
                results().write(report)
            results().flush()
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
    if format == "png" and output is None and results().isatty():
        raise UsageError("a picture is nothing for a terminal", way_out="pass -o report.png, or send stdout to a file")
    if output is not None:
        writable(output, *sources)


def writable(path: Path, *sources: Path, kinds: Collection[str] = REPORTS, what: str = "report") -> Path:
    """`path`, if a file can be written there: better said before training than after.

    Args:
        kinds: suffixes of the files that it may take the place of.
        what: is to be written.

    Raises:
        UsageError: it is one of the files that the command reads, a part of a package, a configuration, its own or
            another's, or a file that is called like nothing the command writes, such as a source.
        UsageError, FileError: as `files.landing`.
    """
    where = Path(os.path.realpath(path))  # a folder on the way that is not there yet may be left again: new/../m.onnx
    if where.exists() and any(source.exists() and where.samefile(source) for source in sources):
        raise UsageError(f"-o {path} is the file to read", way_out="name another one, and what went in stays as it is")
    if package := next((one for one in where.parents if is_package(one)), None):
        raise UsageError(f"-o {path} lies in the package {package.name}", way_out="name a place outside of it")
    if where.suffix.lower() == ".toml" and where.is_file():
        raise UsageError(f"-o {path} is a configuration that stands there", way_out="name another one, and it stays")
    if where.suffix.lower() not in kinds and where.is_file():
        kind = "a model" if where.suffix.lower() in MODELS else f"a {where.suffix} file"
        raise UsageError(
            f"-o {path} is {kind} that stands there, and no {what}", way_out="name another one, and it stays"
        )
    files.landing(path)
    return path


def written(path: Path) -> str:
    """What is said of a report that is about to be written there."""
    return f"wrote {path}" + (", in place of what stood there" if path.is_file() else "")


def output_path(named: Path | None, default: Path, source: Path, kinds: Collection[str] = SAVED) -> Path:
    """Where a checkpoint goes, or a file of other `kinds`: to `-o`, else to `default`, which may be nobody else's.

    What `-o` names may be somebody else's file of the same kind, which is said.

    Raises:
        UsageError: the name is that of another kind of model.
        UsageError, FileError: as `writable` and `claim`.
    """
    what = "checkpoint" if kinds == SAVED else f"{default.suffix} file"
    if named is None:
        return writable(claim(default), source, kinds=kinds, what=what)
    path = writable(named, source, kinds=kinds, what=what)
    if path.suffix.lower() in MODELS and path.suffix.lower() not in kinds:
        raise UsageError(
            f"-o {path} is no name of a {what}", way_out=f"name it {str(path.with_suffix(default.suffix))!r}"
        )
    if path.is_file() and not is_ours(path):
        say(f"note: what stands at {path} was not written by idp-deploy and will be replaced")
    return path


def say(message: str) -> None:
    """One line on stderr."""
    print(uncommanding(on_a_line(message)), file=sys.stderr)


def console() -> Console:
    """For progress bars; they are drawn only where stderr is a terminal."""
    return Console(stderr=True, highlight=False)
