"""The formats: one row each, and a folder that no other format's code knows.

    formats/<format>/write    convert and store (may load the format's converter)
    formats/<format>/read     a file → Contents; shares nothing with write, loads neither converter nor torch
    formats/<format>/run.py   Contents → a session for each runtime of this machine
    formats/<format>/words.py its words for operators, by what they do

What is not a format's own stands beside the folders: the manifest, the notes, the words' classes, what is prunable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from idp_deploy.errors import FileError, UsageError, require
from idp_deploy.flow import FormatName


@dataclass(frozen=True)
class Format:
    """One row. Functions are named as "module:function", loaded at first use."""

    name: FormatName
    suffix: str
    write: str  # as `exporting.Exporter`
    read: str  # (path) → Contents
    open: str  # (contents, *, threads) → {runtime: Session}
    words: str  # module with WORDS and CHANNELS_LAST
    restore: str = ""  # (contents, *, encoding) → the file with its zeros stored sparse, as bytes, the smallest first
    converter: tuple[str, ...] = ()  # optional packages that writing needs
    runtime: tuple[str, ...] = ()  # those that running needs
    extra: str = ""  # of ours that brings both
    vendor: str = ""  # (path) → None: the maker's own reader takes the file, else FileError
    timed: bool = False  # whether a runtime on this machine says something about speed
    packages: tuple[str, ...] = ()  # distributions whose release may change what is written or said of it

    def function(self, role: str) -> Callable[..., Any]:
        """What does `role` ("write", "read", "open", "restore" or "vendor") for this format.

        Raises:
            MissingDependencyError: an optional package that it needs is not installed.
        """
        for package in {"write": self.converter, "vendor": self.converter, "open": self.runtime}.get(role, ()):
            require(package, self.extra)
        module, _, name = getattr(self, role).partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


FORMATS: dict[FormatName, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            ".onnx",
            write="idp_deploy.formats.onnx.write.export:export_onnx",
            read="idp_deploy.formats.onnx.read.contents:read_onnx",
            open="idp_deploy.formats.onnx.run:open_onnx",
            words="idp_deploy.formats.onnx.words",
            restore="idp_deploy.formats.onnx.write.restoring:restored_onnx",
            runtime=("onnxruntime",),
            extra="all",
            timed=True,
            packages=("onnx", "onnxscript", "onnxruntime"),
        ),
        Format(
            "coreml",
            ".mlpackage",
            write="idp_deploy.formats.coreml.write.export:export_coreml",
            read="idp_deploy.formats.coreml.read.contents:read_coreml",
            open="idp_deploy.formats.coreml.run:open_coreml",
            words="idp_deploy.formats.coreml.words",
            vendor="idp_deploy.formats.coreml.write.package:open_with_coremltools",
            converter=("coremltools",),
            extra="coreml",
            packages=("coremltools",),
        ),
        Format(
            "tflite",
            ".tflite",
            write="idp_deploy.formats.tflite.write.export:export_tflite",
            read="idp_deploy.formats.tflite.read.contents:read_tflite",
            open="idp_deploy.formats.tflite.run:open_tflite",
            words="idp_deploy.formats.tflite.words",
            restore="idp_deploy.formats.tflite.write.restoring:restored_tflite",
            converter=("litert_torch", "ai_edge_litert"),
            runtime=("ai_edge_litert",),
            extra="tflite",
            timed=True,
            packages=("litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
        ),
    )
}


def known(name: str) -> Format:
    """The row of this name; UsageError where there is none."""
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", way_out=f"one of {', '.join(FORMATS)}")
    return FORMATS[name]


def suffixes() -> dict[str, FormatName]:
    """File suffix → format."""
    return {row.suffix: row.name for row in FORMATS.values()}


def format_of(path: Path) -> FormatName:
    """The format by suffix; FileError where the file is missing or the suffix is none of ours."""
    if not path.exists():
        raise FileError(f"no such file: {path}", way_out="check the path, or run 'idp-deploy export' first")
    suffix = path.suffix.lower()
    if suffix not in suffixes():
        raise FileError(f"{path} has the suffix {suffix!r}", way_out=f"expected one of {', '.join(suffixes())}")
    return suffixes()[suffix]
