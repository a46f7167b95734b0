"""export."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idp_deploy.cli.options import (
    Config,
    Inputs,
    Made,
    ModelFactory,
    Targets,
    TaskFactory,
    Trust,
    WeightsKey,
    apart,
)
from idp_deploy.cli.output import say
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import Session, checkpoint_of, open_session, remember
from idp_deploy.cli.sparing import spared_layers
from idp_deploy.errors import ConversionError, ExitCode, IdpDeployError, PrecisionError, UsageError
from idp_deploy.flow import Artifact, Contents, FormatName
from idp_deploy.formats import COMPILED_FROM, FORMATS, usual, written
from idp_deploy.rendering.artifacts import export_document
from idp_deploy.rendering.document import shell

if TYPE_CHECKING:
    from idp_deploy.flow import CompressedModel


@reports()
def export(
    checkpoint: Made = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar=f"{'|'.join((*written(), *COMPILED_FROM))}|all",
            help="Repeatable.",
            show_default=False,
            callback=apart,
        ),
    ] = None,
    model: ModelFactory = None,
    task: TaskFactory = None,
    inputs: Inputs = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="auto|dense|…", help="How zeros are stored.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="float16|float32",
            help="What Core ML and Core AI compute in. [default: float16, float32 where the model overflows it]",
            show_default=False,
        ),
    ] = None,
    io: Annotated[
        str | None,
        typer.Option(
            metavar="float|int8", help="What an int8 TFLite file takes and gives. [default: float]", show_default=False
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="nchw|nhwc", help="Of images in a TFLite file. [default: nhwc for inputs alone]", show_default=False
        ),
    ] = None,
    target: Targets = None,
    output: Annotated[
        Path | None,
        typer.Option(
            *("-o", "--output"),
            metavar="DIR",
            help="Or, of one format, the file. [default: beside the checkpoint]",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare each file with the model.")] = True,
    weights_key: WeightsKey = None,
    trust: Trust = False,
    config: Config = None,
) -> Answer:
    """Write files with sparse weight encodings and prove each against the model."""
    from idp_deploy.aiming import WANTED, aim, compile_artifact
    from idp_deploy.facts import facts_of
    from idp_deploy.formats.linting import lint
    from idp_deploy.ownership import destination
    from idp_deploy.reading import read
    from idp_deploy.relieving import too_coarse
    from idp_deploy.shipping import claim_artifacts, export_and_verify, export_unproved, refusals_of
    from idp_deploy.simulation.targets import load_target

    session = open_session(model, task, inputs, config, trust, weights_key)
    outputs = parse_outputs(to if to else session.configuration.export.to)
    chosen = encoding or session.configuration.export.encoding
    special: Mapping[FormatName, Mapping[str, str]] = session.configuration.export.special(
        outputs, precision=precision, io=io, layout=layout
    )
    source = checkpoint_of(checkpoint)
    devices = [load_target(name) for name in target or session.configuration.targets]
    compressed = session.compressed(source)
    scheme = compressed.quantization.scheme if compressed.quantization else None
    aimed = aim(outputs, devices, scheme=scheme, encoding=chosen, options=special)
    formats, special = aimed.formats, aimed.options
    where, stem = destination(output or source.parent, source.stem, formats)
    places = claim_artifacts(where, stem, formats)
    aimed.places(where, stem)
    data = session.task()
    examples = session.example_inputs(data)
    refused: dict[FormatName, IdpDeployError] | None = {} if len(formats) > 1 else None
    asked: dict[FormatName, dict[str, Any]] = {name: {"encoding": chosen, **special.get(name, {})} for name in formats}

    def spared(coarse: Sequence[FormatName]) -> str:
        return spared_layers(session, compressed, source, {name: asked[name] for name in coarse}, examples, data)

    seen: dict[Path, Contents] = {}
    with Waiting(len(formats) * (2 if verify else 1)) as waiting:
        if verify:
            try:
                artifacts, parities = export_and_verify(
                    *(compressed, examples, where, stem, formats, chosen, data, waiting.step),
                    options=special,
                    refused=refused,
                    contents=seen,
                )
            except PrecisionError as error:
                raise _with(error, spared(formats)) from error
        else:
            artifacts, parities = [], {}
            for name, path in zip(formats, places, strict=True):
                waiting.step(f"exporting to {name}")
                with refusals_of(name, refused):
                    artifacts.append(export_unproved(compressed, name, examples, path, **asked[name]))
    coarse = [name for name, error in (refused or {}).items() if isinstance(error, PrecisionError)]
    coarse += [p.artifact.format for p in parities.values() if too_coarse(p)]
    more = spared(coarse)
    refused = {
        name: _with(error, more) if isinstance(error, PrecisionError) else error
        for name, error in (refused or {}).items()
    }
    passed = {a.path: a.path not in parities or parities[a.path].passed for a in artifacts}
    compiled = [
        compile_artifact(a.path, device)
        for a in artifacts
        for device in aimed.compile_for
        if a.format == WANTED and passed[a.path]
    ]
    remember("artifacts", [a.path for a in artifacts])
    contents = {a.format: seen[a.path] if a.path in seen else read(a.path) for a in artifacts}
    dense = {format: one.dense_bytes for format, one in contents.items()}
    phones = [f for f in contents if FORMATS[f].sparse_kernels and asked[f]["encoding"] != "tflm"]
    found = next((lint(contents[format]) for format in phones), None)
    follow = _follow(artifacts[-1], session, target or []) if artifacts else ""
    document = export_document(
        artifacts,
        parities,
        dense,
        found,
        model=compressed,
        next=follow,
        refused=refused,
        files=[facts_of(one) for one in contents.values()],
    )
    for one in compiled:
        say(f"wrote {one.path}: {one.size_bytes:,} bytes, compiled by Vela")
    for note in (*aimed.notes, *(note for one in compiled for note in one.notes)):
        say(f"note: {note}")
    if document.data["warnings"]:
        say(f"warning: {document.data['warnings'][0]}")
    wrong = {p.artifact.format: str(p.artifact.path) for p in parities.values() if not p.passed}
    if wrong:
        again = session.follow("verify", Path(next(iter(wrong.values()))), shell(source))
        differs = ConversionError(
            f"{', '.join(wrong.values())} does not agree with the model",
            way_out=f"see '{again}' for the outputs and weights that differ{_in_floats(compressed)}",
        )
        if any(name in coarse for name in wrong):
            differs = _with(differs, more)
        return Answer(document, all_in_one(refused | {", ".join(wrong): differs}) if refused else differs)
    return Answer(document, all_in_one(refused) if refused else ExitCode.OK)


def _follow(artifact: Artifact, session: Session, targets: Sequence[str]) -> str:
    """The command to be typed next: what is configured is checked or simulated, else on a device that runs the file."""
    told, row = session.configuration, FORMATS[artifact.format]
    named = f" --config {shell(session.named)}" if session.named else ""
    if told.budget_list() and not targets:
        return f"idp-deploy check{named}"
    if told.targets:
        return f"idp-deploy simulate {shell(artifact.path)}{named}"
    if row.no_latency:
        return f"idp-deploy inspect {shell(artifact.path)}"
    return f"idp-deploy simulate {shell(artifact.path)} --target {targets[0] if targets else row.device}"


def _with(error: ConversionError, more: str) -> ConversionError:
    """The same error with one way out more, if there is one."""
    return type(error)(error.message, way_out="; ".join(filter(None, [error.way_out, more])))


def _in_floats(model: CompressedModel) -> str:
    """The way out where activations are integers."""
    if model.quantization is None or model.quantization.scheme != "int8":
        return ""
    return ", or quantize with --scheme int8-weights, which keeps activations float"


def all_in_one(refused: Mapping[str, IdpDeployError]) -> IdpDeployError:
    """The only refusal as it is, several as one; of the exit codes that they agree on, else 3."""
    errors = list(refused.values())
    kind = type(errors[0]) if len({type(error) for error in errors}) == 1 else ConversionError
    return kind("; ".join(f"{format}: {error}" for format, error in refused.items()))


def parse_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """Formats in pipeline order, `all` spelled out, then what a vendor's compiler makes of them.

    Raises:
        UsageError: an unknown format.
    """
    known = (*written(), *COMPILED_FROM)
    names = [name.lower() for name in names]
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"unknown format {unknown[0]!r}", way_out=f"{meant}--to takes {', '.join(known)} or all")
    return tuple(f for f in known if ("all" in names and f in usual()) or f in names)
