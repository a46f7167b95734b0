"""Weights beside an ONNX file that is too large for one: named after their content, so that they are known as ours."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection
from pathlib import Path

from idp_deploy import files

DATA_OF = re.compile(r"(.+\.onnx)\.[0-9a-f]{12}\.data")


def remove_data(path: Path, keep: Collection[str] = ()) -> None:
    """Weights that an earlier export left beside the ONNX file `path`: those whose name is proved by their content."""
    for old in path.parent.glob(f"{glob.escape(path.name)}.*.data"):
        if old.name in keep or old.is_symlink() or not old.is_file() or not DATA_OF.fullmatch(old.name):
            continue
        if old.name == data_name(path, files.sha256(old)):
            old.unlink()


def data_beside(path: Path, location: str) -> Path | None:
    """The file that the ONNX file `path` calls `location`: in its folder, links followed; None where it is not there.

    Where the name of the ONNX file is a link itself, its data may lie beside what that leads to: in the cache of
    Hugging Face Hub both are links into one folder.
    """
    data = (path.parent.resolve() / location).resolve()
    folders = (path.parent.resolve(), path.resolve().parent)
    inside = location and any(data.is_relative_to(folder) for folder in folders)
    return data if inside and data.is_file() else None


def data_name(path: Path, sha256: str) -> str:
    """What the weights beside an ONNX file are called, after their content."""
    return f"{path.name}.{sha256[:12]}.data"
