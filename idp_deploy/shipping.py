"""Files go out: written in every format, compared with the model, and put in their place once they agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy import files
from idp_deploy.errors import ConversionError, IdpDeployError, PrecisionError, UsageError, of_system
from idp_deploy.flow import Artifact, CompressedModel, Contents, FormatName, Parity
from idp_deploy.formats import FORMATS, suffixes
from idp_deploy.formats.external_data import remove_data
from idp_deploy.ownership import claim, set_aside
from idp_deploy.reading import read

if TYPE_CHECKING:
    from idp_deploy.exporting import Conversion
    from idp_deploy.tasks import Task

Announce = Callable[[str], None]


def claim_artifacts(folder: Path, stem: str, formats: Sequence[FormatName]) -> list[Path]:
    """Where the files go, one a format: asked before training or converting, not after.

    Raises:
        UsageError: `folder` is a file, or what stands at one of the places is somebody else's.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is no folder, and the files go into one", way_out="name another one")
    if not folder.is_dir() and (folder.suffix or folder.name).lower() in suffixes():
        if len(formats) == 1:
            wanted = folder.with_name((folder.stem if folder.suffix else stem) + FORMATS[formats[0]].suffix)
            raise UsageError(
                f"{folder} is named as a file, and {formats[0]}'s end in '{wanted.suffix}'",
                way_out=f"name it '{wanted}', or a folder, such as '{folder.parent}'",
            )
        raise UsageError(
            f"{folder} is named as one file, and {len(formats)} go into a folder, named by the model ('{stem}')",
            way_out=f"name a folder, such as '{folder.parent}', or one format with --to",
        )
    return [claim(folder / f"{stem}{FORMATS[format].suffix}") for format in formats]


def export_and_verify(
    model: CompressedModel,
    example_inputs: tuple[Any, ...],
    folder: Path,
    stem: str,
    formats: Sequence[FormatName],
    encoding: str = "auto",
    task: Task | None = None,
    announce: Announce = lambda _: None,
    options: Mapping[FormatName, Mapping[str, Any]] | None = None,
    refused: dict[FormatName, IdpDeployError] | None = None,
    contents: dict[Path, Contents] | None = None,
) -> tuple[list[Artifact], dict[Path, Parity]]:
    """Write `<folder>/<stem>.<suffix>` in every format, once the file agrees with the model.

    A file that does not agree goes to `<folder>/rejected/` and leaves an earlier one in its place untouched.

    Args:
        refused: takes the reason of every format that cannot be written, so that the others are; without it the
            first reason is raised.
        contents: takes what was read of every file, so that nobody need read it again.

    Raises:
        UsageError: a file or folder of somebody else's stands at one of the places.
    """
    from idp_deploy.capturing import traced_once
    from idp_deploy.exporting.sparing import sparing
    from idp_deploy.verification import verify

    artifacts, parities = [], {}
    claim_artifacts(folder, stem, formats)
    with traced_once(), sparing():
        for format in formats:
            name = f"{stem}{FORMATS[format].suffix}"
            with files.workspace(folder) as stage, refusals_of(format, refused):
                announce(f"exporting to {format}")
                more = {"encoding": encoding, **(options or {}).get(format, {})}
                check = partial(verify, model=model, example_inputs=example_inputs, task=task)
                attempt = partial(_made, model, format, example_inputs, check=check, announce=announce)
                artifact, found, parity = _fine_enough(attempt, stage / name, format, more)
                home = folder if parity.passed else set_aside(folder)
                parts = sorted(stage.iterdir(), key=lambda part: part.name == name)
                for part in parts:  # the file itself last: an ONNX file may have its weights beside it
                    files.move(part, home / part.name)
                remove_data(home / name, keep=[part.name for part in parts])
                artifacts.append(replace(artifact, path=home / name))
                parities[home / name] = replace(parity, artifact=replace(parity.artifact, path=home / name))
                if contents is not None:
                    contents[home / name] = replace(found, path=home / name)
    return artifacts, parities


def export_unproved(
    model: CompressedModel, format: FormatName, example_inputs: tuple[Any, ...], path: Path, **options: Any
) -> Artifact:
    """Write a file that nobody compares with the model, for studies of its size and its latency.

    A file that a format's runtimes do not compute right is written too; the notes say what is not proved of it.

    Raises:
        ConversionError: the format cannot hold the model.
    """
    from idp_deploy.exporting import convert, store

    conversion = convert(model, format, example_inputs, **options)
    unproved = ["its outputs and zeros were not compared with the model's"]
    try:
        artifact = store(conversion, path)
    except ConversionError as error:
        if not FORMATS[format].prove:
            raise
        artifact = store(conversion, path, proved=False)
        unproved.append(error.message)
    return replace(artifact, notes=(*artifact.notes, *(f"not proved: {what}" for what in unproved)))


Attempt = tuple[Artifact, Contents, Parity]


def _fine_enough(
    attempt: Callable[..., Attempt], made: Path, format: FormatName, options: Mapping[str, Any]
) -> Attempt:
    """The file as asked; where the precision that a format takes unasked is too coarse for the model, in its finer one.

    Raises:
        PrecisionError: it is too coarse for a weight, and was asked for.
    """
    finer = FORMATS[format].finer if "precision" not in options else ""
    coarse: Attempt | PrecisionError
    try:
        coarse = attempt(made, **options)
        off = [one for one in coarse[2].outputs if not one.passed]
        why = f"output '{off[0].output}' is off by {off[0].max_relative_error:.2g} otherwise" if off else ""
    except PrecisionError as error:
        coarse, why = error, error.message
    if finer and why:
        with suppress(IdpDeployError), files.workspace(made.parent) as stage:
            artifact, contents, parity = attempt(stage / made.name, **options, precision=finer)
            if parity.passed:
                files.move(stage / made.name, made)
                return replace(artifact, notes=(*artifact.notes, f"computed in {finer}: {why}")), contents, parity
    if isinstance(coarse, PrecisionError):
        raise coarse
    return coarse


def _made(
    model: CompressedModel,
    format: FormatName,
    example_inputs: tuple[Any, ...],
    made: Path,
    *,
    check: Callable[[Contents], Parity],
    announce: Announce,
    **options: Any,
) -> Attempt:
    """One conversion, compared with the model."""
    from idp_deploy.exporting import convert

    conversion = convert(model, format, example_inputs, **options)
    announce(f"verifying {made.name}")
    return _checked(conversion, made, check)


def _checked(conversion: Conversion, made: Path, check: Callable[[Contents], Parity]) -> Attempt:
    """The file at `made`, what is read of it and how it agrees with the model.

    It is run by `check` alone; where it fails there, a format that can is asked for a form that its runtimes take.
    """
    from idp_deploy.exporting import store

    def attempt(proved: bool) -> Attempt:
        artifact = store(conversion, made, proved=proved)
        contents = read(made)
        return artifact, contents, check(contents)

    if not FORMATS[conversion.format].prove:
        return attempt(proved=False)
    with suppress(IdpDeployError):
        found = attempt(proved=False)
        if found[2].passed:
            return found
    return attempt(proved=True)


@contextmanager
def refusals_of(format: FormatName, refused: dict[FormatName, IdpDeployError] | None) -> Iterator[None]:
    """Note what stops a format in `refused` and go on; without that, it is raised as it is."""
    try:
        yield
    except IdpDeployError as error:
        if refused is None:
            raise
        refused[format] = error
    except OSError as error:  # of the disk, not of the format
        if refused is None:
            raise
        refused[format] = of_system(error)
    except Exception as error:  # whatever a converter stumbles over takes no other format along
        if refused is None:
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        refused[format] = ConversionError(
            f"unexpected {type(error).__name__}: {first}", way_out=f"run again with --to {format} --debug"
        )
