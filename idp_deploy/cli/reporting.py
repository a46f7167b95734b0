"""The frame of a command: its report has a place before any work is done, and is shown once; then the command ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.models import ArgumentInfo

from idp_deploy.cli.options import Json, ReportFile, ReportFormat
from idp_deploy.cli.output import emit, ready
from idp_deploy.errors import ExitCode, IdpDeployError
from idp_deploy.rendering.document import Document


class Answer(NamedTuple):
    """What a command found, and how it ends once that is shown: with a code, or with an error that says more."""

    document: Document
    ending: ExitCode | IdpDeployError = ExitCode.OK

    @classmethod
    def judged(cls, document: Document, passed: bool) -> Answer:
        """Of a command that gates."""
        return cls(document, ExitCode.OK if passed else ExitCode.GATE)


def _options(*, output: ReportFile = None, format: ReportFormat = "text", json: Json = False) -> None:
    """What the frame adds to a command, as it is shown in --help."""


def reports(*, to_file: bool = False) -> Callable[[Callable[..., Answer | None]], Callable[..., None]]:
    """Give a command --format and --json, and -o FILE for its report unless it writes files of its own.

    The command returns its answer, or None where another process gives it. A report replaces no file that an argument
    names.
    """
    added = [one for name, one in signature(_options, eval_str=True).parameters.items() if to_file or name != "output"]

    def frame(command: Callable[..., Answer | None]) -> Callable[..., None]:
        own = signature(command, eval_str=True)

        @wraps(command)
        def framed(**given: Any) -> None:
            report = {option.name: given.pop(option.name) for option in added}
            ready(report["format"], report.get("output"), *_named(own.parameters, given))
            answer = command(**given)
            if answer is None:
                return
            emit(answer.document, **report)
            if isinstance(answer.ending, IdpDeployError):
                raise answer.ending
            if answer.ending is not ExitCode.OK:
                raise typer.Exit(answer.ending)

        parameters = list(own.parameters.values())
        config = [parameters.pop()] if list(own.parameters)[-1:] == ["config"] else []  # the last in every --help
        options = [option.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for option in added]
        framed.__signature__ = own.replace(parameters=[*parameters, *options, *config])  # type: ignore[attr-defined]
        return framed

    return frame


def _named(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> Iterator[Path]:
    """The files that arguments name; options are no arguments."""
    for name, parameter in parameters.items():
        if any(isinstance(info, ArgumentInfo) for info in getattr(parameter.annotation, "__metadata__", ())):
            value = given[name]
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Path))
