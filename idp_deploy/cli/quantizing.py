"""quantize."""

from __future__ import annotations

from typing import Annotated

import typer

from idp_deploy.cli.options import Config, Inputs, Made, ModelFactory, NewCheckpoint, TaskFactory, Trust, WeightsKey
from idp_deploy.cli.output import output_path, say
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import checkpoint_of, open_session, remember
from idp_deploy.errors import UsageError
from idp_deploy.rendering.models import compression_document


@reports()
def quantize(
    checkpoint: Made = None,
    scheme: Annotated[
        str | None,
        typer.Option(metavar="fp16|int8|int8-weights|lut4", help="How numbers are stored.", show_default=False),
    ] = None,
    values: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Of int8: distinct values a weight may have; 16 suits Ethos-U.", show_default=False
        ),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--float", metavar="GLOB", help="Weights or modules that stay float, repeatable.", show_default=False
        ),
    ] = None,
    model: ModelFactory = None,
    task: TaskFactory = None,
    inputs: Inputs = None,
    output: NewCheckpoint = None,
    weights_key: WeightsKey = None,
    trust: Trust = False,
    config: Config = None,
) -> Answer:
    """Store weights in fewer bits; zeros stay exactly zero, and layers that would suffer stay float."""
    from idp_deploy.loading import save_checkpoint
    from idp_deploy.quantization import quantize as quantize_model
    from idp_deploy.tasks import evaluate

    session = open_session(model, task, inputs, config, trust, weights_key)
    chosen = scheme.lower() if scheme else session.configuration.quantize.scheme
    if chosen is None:
        raise UsageError("no scheme is given", way_out="pass --scheme fp16, int8, int8-weights or lut4")
    checkpoint = checkpoint_of(checkpoint)
    path = output_path(output, checkpoint.with_name(f"{checkpoint.stem}.{chosen}.pt"), checkpoint)
    before = session.compressed(checkpoint)
    data = session.task()
    if data is None:
        say("no task: activation ranges come from random inputs, and accuracy is not measured")
    few = values if values is not None else session.configuration.quantize.values
    floats = keep_float or session.configuration.quantize.float
    examples = session.example_inputs(data)
    with Waiting():
        after = quantize_model(before, chosen, task=data, example_inputs=examples, values=few, keep_float=floats)
        accuracies = {"before": evaluate(before.module, data), chosen: evaluate(after.module, data)} if data else {}
    save_checkpoint(after, path)
    remember("checkpoint", [path])
    document = compression_document(
        after,
        path,
        accuracies=accuracies,
        metric=data.metric_name if data else "accuracy",
        next=session.goes_on(path, quantized=True),
    )
    return Answer(document)
