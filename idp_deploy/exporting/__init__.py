"""export: CompressedModel → Artifact, in any format that has a row in `formats.FORMATS`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from idp_deploy.flow import Artifact, CompressedModel, FormatName
from idp_deploy.formats import known
from idp_deploy.ledger import refuse_filled
from idp_deploy.sealing import seal


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
        UsageError: unknown format or encoding, or weights that were written to after hardening.
        ConversionError: an operator the format cannot hold.
        MissingDependencyError: the format's converter is not installed.
    """
    refuse_filled(model)
    exporter: Exporter = known(format).function("write")
    artifact = exporter(model, example_inputs, path, encoding=encoding, **options)
    return replace(artifact, manifest={**artifact.manifest, "seal": seal(artifact.path)})
