"""inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.cli.options import Json, ReportFile, ReportFormat
from idp_deploy.cli.output import emit, ready
from idp_deploy.cli.session import existing
from idp_deploy.errors import UsageError


def inspect(
    artifact: Annotated[Path, typer.Argument(metavar="FILE", help="A .onnx, .mlpackage or .tflite file, of any tool.")],
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="xnnpack", help="Also say whether this runtime runs the zeros sparse.", show_default=False
        ),
    ] = None,
    output: ReportFile = None,
    format: ReportFormat = "text",
    json: Json = False,
) -> None:
    """Per weight: shape, zeros, encoding, bytes and the bound; in total: size and what a download takes."""
    from idp_deploy.inspection import inspect as inspect_file
    from idp_deploy.reading import read
    from idp_deploy.rendering.inspections import inspection_document

    ready(format, output, artifact)
    if runtime not in (None, "xnnpack"):
        raise UsageError(
            f"unknown runtime {runtime!r}", way_out="--runtime xnnpack is what runs zeros sparse on phones"
        )
    inspection = inspect_file(existing(artifact))
    findings = None
    if runtime:
        from idp_deploy.simulation.xnnpack import lint

        findings = lint(read(artifact))
    emit(inspection_document(inspection, findings), format=format, json=json, output=output)
