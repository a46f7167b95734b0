"""The formats: one row each, and a folder that no other format's code knows.

    formats/<format>/write    a model → Converted, once; Converted → Written, often (may load the format's converter)
    formats/<format>/read     a file → Contents; shares nothing with write, loads neither converter nor torch
    formats/<format>/run.py   Contents → a session for each runtime of this machine
    formats/<format>/words.py its words for operators, by what they do
    formats/<format>/integers.py  the operators that int8 lets compute with integers

What is not a format's own stands beside the folders: the manifest, the notes, the words' classes, what is prunable.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from idp_deploy.errors import FileError, UsageError, require
from idp_deploy.flow import FormatName
from idp_deploy.formats.foreign import model_of
from idp_deploy.packages import KINDS


@dataclass(frozen=True)
class Format:
    """One row. Functions are named as "module:function", loaded at first use."""

    name: FormatName
    suffix: str
    title: str  # as people write it
    read: str  # (path) → Contents
    words: str  # module with WORDS and CHANNELS_LAST
    convert: str = ""  # (captured, quantization, encoding, **its own options) → Converted, as in `formats.writing`
    store: str = ""  # (converted, masks, manifest as text) → Written; neither where files are only read
    open: str = ""  # (contents, *, threads) → {runtime: Session}; none where nothing here runs them
    open_plain: str = ""  # (contents) → the sessions as anybody opens them, where `open` asks runtimes for more
    restore: str = ""  # (contents, *, encoding) → the file with its zeros stored sparse, as bytes, the smallest first
    entries: str = (
        ""  # (contents) → one for each function or body that a call of the first may not run; beside `restore`
    )
    kept_dense: str = ""  # (contents, tensor) → (why `restore` leaves its zeros in, the way out); beside `restore`
    converter: tuple[str, ...] = ()  # optional packages that writing needs
    runtime: tuple[str, ...] = ()  # those that running needs
    reader: tuple[str, ...] = ()  # those that reading needs
    extra: str = ""  # of ours that brings them
    prove: str = ""  # as `store`: the first form that the format's runtimes compute right, where they take wrong ones
    vendor: str = ""  # (path) → None: the maker's own reader takes the file, else FileError
    sparse_kernels: str = ""  # (contents) → SparseLint, where a runtime of it skips zeros
    integers: str = ""  # (contents) → the operators that int8 lets compute with integers; "": weights alone become such
    blame: str = ""  # (contents, model, call, tolerance) → notes on the operator that first parts from the model
    usual: str = ""  # (contents, arrays, tolerance) → notes on usual sessions that integers move on this machine alone
    encodings: tuple[str, ...] = ()  # what `convert` takes by name for how zeros are stored; 1xN is any number
    layouts: tuple[str, ...] = ()  # of sparse weights, among those of `encodings`, that its files can have
    scale_bytes: int = 4  # what integers add for an output channel: its scale, and a zero point where one is stored
    options: tuple[str, ...] = ()  # words that its `convert` alone takes, on the command line and in configurations
    finer: str = ""  # precision to compute in where the usual one, which nobody asked for, cannot hold the model
    half_floats: bool = False  # whether floats take 16 bits unless asked otherwise
    half_scales: bool = False  # whether the scales of integers may be float16
    time: str = ""  # (contents, threads) → (runtime, () → CPU ms of an inference), where this machine can say that
    no_latency: str = ""  # why no device has one for its files
    device: str = "pixel-4"  # one of those that run its files, for commands to be typed next
    emulated: str = ""  # package of the emulated arm64 machine that runs it
    package: bool = False  # whether it is a folder
    free_batch: bool = False  # whether a file can leave the batch open
    widest: bool = False  # whether it takes what other formats refuse, and may be named as the way out
    by_name_alone: bool = False  # left out of "all": its extra is none that `idp-deploy[all]` brings
    versions: tuple[str, ...] = ("torch",)  # packages whose versions a file's manifest names
    packages: tuple[str, ...] = ()  # distributions whose release may change what is written or said of it

    def function(self, role: str) -> Callable[..., Any]:
        """What does `role` ("convert", "store", "read", "open", …) for this format.

        Raises:
            MissingDependencyError: an optional package that it needs is not installed.
            UsageError: files of this format are only read here.
        """
        if not getattr(self, role):
            what = {"convert": "written", "store": "written", "open": "run"}.get(role, "opened")
            raise UsageError(f"{self.suffix} files are not {what} here", way_out="inspect, check and diff take them")
        needs = {
            "convert": self.converter,
            "vendor": self.converter,
            "open": self.runtime,
            "open_plain": self.runtime,
            "time": self.runtime,
            "read": self.reader,
        }
        for package in needs.get(role, ()):
            require(package, self.extra)
        module, _, name = getattr(self, role).partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found

    def refuse_encoding(self, name: str) -> None:
        """UsageError where no file of this format stores zeros as `name` says."""
        if re.sub(r"x[1-9]\d*$", "xN", name) not in self.encodings:
            near = get_close_matches(name, self.encodings, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UsageError(
                f"{self.title} has no encoding {name!r}", way_out=f"{hint}one of {', '.join(self.encodings)}"
            )


FORMATS: dict[FormatName, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            ".onnx",
            "ONNX",
            convert="idp_deploy.formats.onnx.write.export:convert_onnx",
            store="idp_deploy.formats.onnx.write.export:store_onnx",
            read="idp_deploy.formats.onnx.read.contents:read_onnx",
            open="idp_deploy.formats.onnx.run:open_onnx",
            open_plain="idp_deploy.formats.onnx.run:open_plain",
            usual="idp_deploy.formats.onnx.run:usual",
            integers="idp_deploy.formats.onnx.integers:integers_onnx",
            encodings=("auto", "portable", "dense", "bitmask", "gaps8", "gaps5", "gaps4", "sparse-initializer"),
            layouts=("bitmask", "gaps8", "gaps5", "gaps4"),
            words="idp_deploy.formats.onnx.words",
            restore="idp_deploy.formats.onnx.write.restoring:restored_onnx",
            kept_dense="idp_deploy.formats.onnx.write.leaving:why_dense",
            runtime=("onnxruntime",),
            extra="all",
            time="idp_deploy.formats.onnx.run:time_onnx",
            emulated="onnxruntime",
            free_batch=True,
            widest=True,
            versions=("torch", "onnx", "onnxscript"),
            packages=("onnx", "onnxscript", "onnxruntime"),
        ),
        Format(
            "coreml",
            ".mlpackage",
            "Core ML",
            convert="idp_deploy.formats.coreml.write.export:convert_coreml",
            store="idp_deploy.formats.coreml.write.export:store_coreml",
            read="idp_deploy.formats.coreml.read.contents:read_coreml",
            open="idp_deploy.formats.coreml.run:open_coreml",
            encodings=("auto", "dense", "sparse"),
            layouts=("bitmask",),
            words="idp_deploy.formats.coreml.words",
            blame="idp_deploy.formats.coreml.bisect:blame",
            device="iphone-12",
            options=("precision",),
            finer="float32",
            half_floats=True,
            half_scales=True,
            vendor="idp_deploy.formats.coreml.write.package:open_with_coremltools",
            converter=("coremltools",),
            extra="coreml",
            package=True,
            versions=("torch", "coremltools"),
            packages=("coremltools",),
        ),
        Format(
            "tflite",
            ".tflite",
            "TFLite",
            convert="idp_deploy.formats.tflite.write.export:convert_tflite",
            store="idp_deploy.formats.tflite.write.export:store_tflite",
            prove="idp_deploy.formats.tflite.write.export:prove_tflite",
            options=("io", "layout"),
            read="idp_deploy.formats.tflite.read.contents:read_tflite",
            open="idp_deploy.formats.tflite.run:open_tflite",
            encodings=("auto", "dense", "csr", "block:1xN", "tflm"),
            layouts=("gaps8",),  # a byte of position beside each value
            scale_bytes=12,
            words="idp_deploy.formats.tflite.words",
            restore="idp_deploy.formats.tflite.write.restoring:restored_tflite",
            entries="idp_deploy.formats.tflite.write.entries:entries_tflite",
            kept_dense="idp_deploy.formats.tflite.write.leaving:why_dense",
            converter=("litert_torch", "ai_edge_litert"),
            runtime=("ai_edge_litert",),
            extra="tflite",
            sparse_kernels="idp_deploy.formats.tflite.xnnpack:lint",
            integers="idp_deploy.formats.tflite.integers:integers_tflite",
            time="idp_deploy.formats.tflite.run:time_tflite",
            emulated="ai_edge_litert",
            versions=("torch", "litert-torch", "ai-edge-litert"),
            packages=("litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
        ),
        Format(
            "coreai",
            ".aimodel",
            "Core AI",
            convert="idp_deploy.formats.coreai.write.export:convert_coreai",
            store="idp_deploy.formats.coreai.write.export:store_coreai",
            read="idp_deploy.formats.coreai.read.contents:read_coreai",
            open="idp_deploy.formats.coreai.run:open_coreai",
            encodings=("auto", "dense", "sparse"),
            layouts=("bitmask",),
            words="idp_deploy.formats.coreai.words",
            converter=("coreai", "coreai_torch"),
            reader=("coreai",),
            runtime=("coreai",),
            extra="coreai",
            no_latency="no latency of Core AI has been published; it begins with macOS 27 and iOS 27",
            package=True,
            options=("precision",),
            finer="float32",
            half_floats=True,
            half_scales=True,
            by_name_alone=True,
            versions=("torch", "coreai-core", "coreai-torch"),
            packages=("coreai-core", "coreai-torch"),
        ),
        Format(
            "executorch",
            ".pte",
            "ExecuTorch",
            read="idp_deploy.formats.executorch.read.contents:read_executorch",
            words="idp_deploy.formats.executorch.words",
            no_latency="what a delegate runs is not in the public schema of a .pte",
            by_name_alone=True,
        ),
    )
}


COMPILED_FROM: dict[str, FormatName] = {"ethos-u": "tflite"}  # what a vendor's compiler makes, and of which format


def known(name: str) -> Format:
    """The row of this name; UsageError where there is none."""
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", way_out=f"one of {', '.join(FORMATS)}")
    return FORMATS[name]


def usual() -> tuple[FormatName, ...]:
    """What "all" means: the formats that `idp-deploy[all]` brings."""
    return tuple(row.name for row in FORMATS.values() if not row.by_name_alone)


def written() -> tuple[FormatName, ...]:
    """The formats that are written, not only read."""
    return tuple(row.name for row in FORMATS.values() if row.convert)


WEIGHTS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")
_NAMED = 5  # files of a folder that are named where one is wanted


def suffixes() -> dict[str, FormatName]:
    """File suffix → format."""
    return {row.suffix: row.name for row in FORMATS.values()}


def format_of(path: Path) -> FormatName:
    """The format by suffix; FileError where the file is missing or the suffix is none of ours."""
    if not path.exists():
        raise FileError(f"no such file: {path}", way_out="check the path, or run 'idp-deploy export' first")
    suffix = path.suffix.lower()
    if suffix not in suffixes():
        if known := model_of(path):
            raise FileError(f"{path} is {known[0]}", way_out=known[1])
        if path.is_dir():  # of no suffix that is known
            raise of_folder(path)
        expected = f"expected one of {', '.join(suffixes())}"
        raise FileError(f"{path} has the suffix {suffix!r}", way_out=expected + _of_weights(path))
    return suffixes()[suffix]


def is_package(path: Path) -> bool:
    """Whether a path is a folder that is called like a package."""
    return path.is_dir() and any(row.package and row.suffix == path.suffix.lower() for row in FORMATS.values())


def is_folder(path: Path) -> bool:
    """Whether it is one that is not."""
    return path.is_dir() and not is_package(path)


def models_in(folder: Path) -> tuple[Path, ...]:
    """The model files and packages that lie in a folder itself, by name."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes())
    return tuple(sorted(path for path in found if path.is_file() or is_package(path)))


def of_folder(folder: Path) -> FileError:
    """The error for a folder where one model file is wanted: what lies in it, or below it where nothing does."""
    for suffix, kind in KINDS.items():
        if kind.parts(folder):
            return FileError(
                f"{folder} is a {kind.name} package by its content", way_out=f"give it the suffix {suffix}"
            )
    inside = models_in(folder)
    rooms = (one for one in sorted(folder.iterdir()) if one.is_dir() and os.access(one, os.R_OK | os.X_OK))
    below = () if inside else [found for one in rooms for found in models_in(one)]
    if not inside and not below:
        expected = f"expected one of {', '.join(suffixes())} in it"
        return FileError(f"{folder} is a folder without a model file", way_out=expected + _of_weights(folder))
    names = ", ".join(path.relative_to(folder).as_posix() for path in (*inside, *below)[:_NAMED])
    more = len(inside or below) - _NAMED
    return FileError(
        f"{folder} is a folder with {names}{f' and {more} more' if more > 0 else ''}", way_out="name one of them"
    )


def _of_weights(path: Path) -> str:
    """What else to say where weights lie at a path, or in it."""
    if not any(one.suffix.lower() in WEIGHTS for one in (path, *(path.iterdir() if path.is_dir() else ()))):
        return ""
    return f"; 'idp-deploy export {shlex.quote(str(path))} --to onnx' makes one of weights"
