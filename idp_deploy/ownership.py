"""Whose file is it? What a command names by itself takes the place of our own files alone, known by their content."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from itertools import chain, count
from pathlib import Path

from idp_deploy import documents, files, packages
from idp_deploy.errors import ELSEWHERE, FileError, UsageError
from idp_deploy.flow import MANIFEST_KEY, FormatName
from idp_deploy.formats import FORMATS, suffixes
from idp_deploy.formats.external_data import DATA_OF
from idp_deploy.reading import read

CHECKPOINT = "idp-deploy/1"  # what a checkpoint says under "format"
TRAINING_STATE = "idp-deploy training state, version 1"  # under "kind", as the next
COMPARISON = "idp-deploy comparison, version 1"
RUN = "idp-deploy run, version 1"
SAVED = (".pt", ".pth", ".ckpt", ".bin", "")  # what a checkpoint may be called
PICKLE_BYTES = 1 << 26  # names and shapes; tensors lie beside it
OUTPUT = "name another folder as 'output'"  # of a configuration, or of `deploy`: there is no -o for files


def destination(output: Path, stem: str, formats: Sequence[FormatName]) -> tuple[Path, str]:
    """(folder, stem) of the files for an output that was asked for: a folder, or the one file by its name.

    >>> destination(Path("build"), "net", ["onnx"])
    (PosixPath('build'), 'net')
    >>> destination(Path("app/digits.onnx"), "net", ["onnx"])
    (PosixPath('app'), 'digits')
    """
    suffix = FORMATS[formats[0]].suffix if len(formats) == 1 else ""
    one = bool(suffix) and output.suffix == suffix and (suffix in packages.KINDS or not output.is_dir())
    return (output.parent, output.stem) if one else (output, stem)


def claim(path: Path, *, elsewhere: str = ELSEWHERE) -> Path:
    """`path`, for a command that was not told this very name: nothing may stand there but what we wrote.

    Args:
        elsewhere: how one names another place.

    Raises:
        UsageError: a file of somebody else's, or anything that `files.landing` refuses.
    """
    files.landing(path, package=path.suffix in packages.KINDS, elsewhere=elsewhere)
    if path.exists() and not is_ours(path):
        raise UsageError(f"{path} exists and was not written by idp-deploy", way_out=f"move it away, or {elsewhere}")
    return path


def displace(path: Path) -> Path | None:
    """Move aside what stands at `path` and is not ours, under a name that is free; None where nothing has to move.

    For a place where we know to have written, and somebody has changed what we wrote.
    """
    if path.is_symlink() or not path.exists() or is_ours(path):
        return None
    names = chain([f"{path.name}.edited"], (f"{path.name}.edited-{number}" for number in count(2)))
    free = next(place for place in map(path.with_name, names) if not os.path.lexists(place))
    path.rename(free)
    return free


def is_ours(path: Path) -> bool:
    """Whether a command of ours wrote this checkpoint, artifact, training state, comparison or record of a run."""
    recognise = _RECOGNISED.get(path.suffix, _is_artifact if path.suffix in suffixes() else None)
    return recognise is not None and recognise(path)


def set_aside(folder: Path) -> Path:
    """Where files that failed go: `rejected` in `folder`, unless it is somebody else's, then `rejected-2`, …"""
    names = chain(["rejected"], (f"rejected-{number}" for number in count(2)))
    return next(place for place in (folder / name for name in names) if _is_free(place))


def _is_free(place: Path) -> bool:
    if place.is_symlink() or not place.is_dir():
        return not os.path.lexists(place)
    data = {path: DATA_OF.fullmatch(path.name) for path in place.iterdir()}  # beside the ONNX file they belong to
    return all(is_ours(place / found[1] if found else path) for path, found in data.items())


def _is_artifact(path: Path) -> bool:
    try:
        return bool(read(path).metadata.get(MANIFEST_KEY))
    except FileError:
        return False


def _is_saved(path: Path) -> bool:
    """Whether the pickle inside says so; it is searched, not loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [one for one in archive.infolist() if one.filename.endswith("/data.pkl")]
            return any(
                text.encode() in archive.read(one)
                for one in inside
                if one.file_size <= PICKLE_BYTES
                for text in (CHECKPOINT, TRAINING_STATE)
            )
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False


def _is_record(path: Path) -> bool:
    try:
        content = documents.parse_json(documents.read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") in (COMPARISON, RUN)


_RECOGNISED: dict[str, Callable[[Path], bool]] = {
    **dict.fromkeys(SAVED, _is_saved),
    ".json": _is_record,
    **dict.fromkeys(packages.KINDS, lambda path: path.is_dir() and not packages.kind_of(path).why_kept(path)),
}
