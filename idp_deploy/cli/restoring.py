"""restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.cli.output import output_path
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import artifact_of


@reports()
def restore(
    artifact: Annotated[Path, typer.Argument(metavar="FILE", help="A pruned .onnx or .tflite file of any tool.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="Default: FILE.sparse.onnx or .tflite.", show_default=False),
    ] = None,
    encoding: Annotated[str, typer.Option(metavar="auto|portable|…", help="How zeros are stored.")] = "auto",
) -> Answer:
    """Store the zeros of an ONNX or TFLite file sparse again, after a tool wrote them out; needs no model.

    Both files give the same outputs in every runtime of theirs, bit for bit, or nothing is written.
    """
    from idp_deploy.rendering.artifacts import restored_document
    from idp_deploy.restoring import restore as restore_file

    artifact = artifact_of(artifact)
    suffix = artifact.suffix
    path = output_path(output, artifact.with_name(f"{artifact.stem}.sparse{suffix}"), artifact, kinds=(suffix, ""))
    with Waiting():
        restored = restore_file(artifact, path, encoding=encoding)
    return Answer(restored_document(restored))
