"""read: any .onnx, .mlpackage or .tflite file → Contents, by code that shares nothing with the writers.

`inspect`, `verify`, `simulate` and `check` all start here. Inputs are hostile until parsed: a broken file raises
`FileError` naming the file and what is wrong with it, and nothing in it is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from idp_deploy.errors import FileError
from idp_deploy.flow import SUFFIXES, Contents, FormatName

# format → module:function taking a path and returning Contents; none of them imports torch
READERS: dict[FormatName, str] = {
    "onnx": "idp_deploy.formats.onnx.read.contents:read_onnx",
    "coreml": "idp_deploy.formats.coreml.read.contents:read_coreml",
    "tflite": "idp_deploy.formats.tflite.read.contents:read_tflite",
}


def format_of(path: Path) -> FormatName:
    """The format by suffix; FileError where the file is missing or the suffix is none of ours."""
    if not path.exists():
        raise FileError(f"no such file: {path}", way_out="check the path, or run 'idp-deploy export' first")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(f"{path} has the suffix {suffix!r}", way_out=f"expected one of {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def read(path: Path | str) -> Contents:
    """Parse an artifact.

    Raises:
        FileError: the file is missing, truncated, or not what its suffix says.
    """
    path = Path(path)
    module, _, name = READERS[format_of(path)].partition(":")
    reader: Callable[[Path], Contents] = getattr(import_module(module), name)
    return reader(path)
