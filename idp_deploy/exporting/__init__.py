"""export: CompressedModel → Artifact, one file and one row a format."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from idp_deploy.errors import UsageError, require
from idp_deploy.flow import Artifact, CompressedModel, FormatName


class Exporter(Protocol):
    """What every format's function looks like.

    It writes `path` atomically (`files.replacing`), embeds `manifest.build(...)` in the file, and leaves the model
    and the random state untouched. `options` are the format's own (documented by its function).
    """

    def __call__(
        self,
        model: CompressedModel,
        example_inputs: tuple[Any, ...],
        path: Path,
        *,
        encoding: str = "auto",
        **options: Any,
    ) -> Artifact: ...


# format → (module:function, file suffix, optional packages it needs, extra that brings them)
EXPORTERS: dict[FormatName, tuple[str, str, tuple[str, ...], str]] = {
    "onnx": ("idp_deploy.formats.onnx.write.export:export_onnx", ".onnx", (), ""),
    "coreml": ("idp_deploy.formats.coreml.write.export:export_coreml", ".mlpackage", ("coremltools",), "coreml"),
    "tflite": (
        "idp_deploy.formats.tflite.write.export:export_tflite",
        ".tflite",
        ("litert_torch", "ai_edge_litert"),
        "tflite",
    ),
}


def export(
    model: CompressedModel,
    format: FormatName,
    example_inputs: tuple[Any, ...],
    path: Path,
    *,
    encoding: str = "auto",
    **options: Any,
) -> Artifact:
    """Write `model` to `path` in one format with sparse weight encodings.

    Args:
        example_inputs: positional arguments of the module's forward.
        path: the file (or .mlpackage directory) to write; replaced atomically.
        encoding: auto picks the smallest per tensor; dense turns sparse storage off; or one of the format's names.

    Raises:
        UsageError: unknown format or encoding. ConversionError: an operator the format cannot hold.
        MissingDependencyError: the format's converter is not installed.
    """
    if format not in EXPORTERS:
        raise UsageError(f"unknown format {format!r}", way_out=f"one of {', '.join(EXPORTERS)}")
    location, _, needs, extra = EXPORTERS[format]
    for package in needs:
        require(package, extra)
    module, _, name = location.partition(":")
    exporter: Exporter = getattr(import_module(module), name)
    return exporter(model, example_inputs, path, encoding=encoding, **options)
