"""inspect."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import artifact_of
from idp_deploy.collecting import seldom_collecting
from idp_deploy.errors import UsageError

if TYPE_CHECKING:
    from idp_deploy.formats.onnx.runtimes import RuntimeLint


@reports(to_file=True)
@seldom_collecting()
def inspect(
    artifact: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .onnx, .mlpackage, .tflite, .aimodel or .pte file, of any tool.")
    ],
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="xnnpack|ethos-u85|…",
            help="Also say what this runtime does with the file: xnnpack or ethos-u85 with a .tflite; openvino, "
            "opencv, mnn, tract and others with an .onnx.",
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Per weight: shape, zeros, encoding, bytes and the bound; in total: size and what a download takes."""
    from idp_deploy.facts import facts_of
    from idp_deploy.inspection import inspect as inspect_file
    from idp_deploy.reading import read
    from idp_deploy.rendering.inspections import inspection_document

    artifact = artifact_of(artifact)
    with Waiting():
        inspection = inspect_file(artifact)
    sparse = runtime_lint = None
    runner = "XNNPACK"
    if runtime == "xnnpack":
        from idp_deploy.formats.linting import lint

        sparse = lint(read(artifact))
    elif runtime == "ethos-u85":
        from idp_deploy.simulation.ethos_u85 import NAME, lint

        sparse, runner = lint(read(artifact)), NAME
    elif runtime is not None:
        runtime_lint = _lint(artifact, inspection.format, runtime)
    document = inspection_document(inspection, sparse, runtime_lint, facts_of(read(artifact)), runner)
    return Answer(document)


def _lint(artifact: Path, file_format: str, name: str) -> RuntimeLint:
    """What a tool that opens .onnx files does with this one.

    Raises:
        UsageError: an unknown runtime, with the nearest, or a file of another format.
    """
    from idp_deploy.formats.onnx.runtimes import FORMAT, runtimes
    from idp_deploy.formats.onnx.tools import lint

    names = ["xnnpack", "ethos-u85", *runtimes()]
    if name not in names:
        near = get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(names)}"
        raise UsageError(f"unknown runtime {name!r}", way_out=hint)
    if file_format != FORMAT:
        raise UsageError(f"{artifact}: what is known of {name} is of .onnx files", way_out="export --to onnx")
    return lint(artifact, name)
