"""verify."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.cli.options import Config, Inputs, ModelFactory, TaskFactory, Trust, WeightsKey
from idp_deploy.cli.output import say
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import artifact_of, existing, open_session
from idp_deploy.cli.sparing import spared_layers
from idp_deploy.errors import UsageError
from idp_deploy.formats import suffixes
from idp_deploy.rendering.artifacts import parity_document
from idp_deploy.rendering.document import shell


@reports(to_file=True)
def verify(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="A .onnx, .mlpackage, .tflite or .aimodel file.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL.pt", help="The checkpoint it should agree with.", show_default=False),
    ] = None,
    model: ModelFactory = None,
    task: TaskFactory = None,
    inputs: Inputs = None,
    weights_key: WeightsKey = None,
    trust: Trust = False,
    config: Config = None,
) -> Answer:
    """Run the file here, compare it with the model, and prove the zeros from the file.

    Exits 1 where an output or a weight differs.
    """
    from idp_deploy.facts import facts_of
    from idp_deploy.reading import read
    from idp_deploy.relieving import options_of, too_coarse
    from idp_deploy.sealing import intact, key_of
    from idp_deploy.verification import verify as verify_file

    if checkpoint is not None and checkpoint.suffix in suffixes() and artifact.suffix not in suffixes():
        raise UsageError(
            f"{artifact} is no file to verify, and {checkpoint} is one",
            way_out=f"the file comes first: idp-deploy verify {shell(checkpoint)} {shell(artifact)}",
        )
    session = open_session(model, task, inputs, config, trust, weights_key)
    artifact = artifact_of(artifact)
    compressed = None
    if checkpoint is None:
        say("no model is given: the file is checked by itself, runtime against runtime")
        with Waiting():
            parity = verify_file(artifact, None, session.example_inputs(None) if inputs else None)
    else:
        compressed = session.compressed(existing(checkpoint))
        data = session.task()
        examples = session.example_inputs(data)
        with Waiting():
            parity = verify_file(artifact, compressed, examples, task=data)
        if too_coarse(parity) and intact(artifact, key_of(compressed)):  # else what is wrong is the file
            asked = {parity.artifact.format: options_of(parity.artifact)}
            way_out = spared_layers(session, compressed, checkpoint, asked, examples, data)
            parity = replace(parity, notes=(*parity.notes, *filter(None, [way_out])))
    document = parity_document(parity, facts_of(read(artifact)), compressed)
    return Answer.judged(document, parity.passed)
