"""shrink."""

from __future__ import annotations

from idp_deploy.cli.options import Config, Inputs, Made, ModelFactory, NewCheckpoint, TaskFactory, Trust, WeightsKey
from idp_deploy.cli.output import output_path
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import checkpoint_of, open_session, remember
from idp_deploy.errors import UsageError
from idp_deploy.rendering.models import shrinking_document


@reports()
def shrink(
    checkpoint: Made = None,
    model: ModelFactory = None,
    task: TaskFactory = None,
    inputs: Inputs = None,
    output: NewCheckpoint = None,
    weights_key: WeightsKey = None,
    trust: Trust = False,
    config: Config = None,
) -> Answer:
    """Take out channels that are zero: a smaller dense model with the same outputs, faster on every runtime."""
    from idp_deploy.loading import save_checkpoint
    from idp_deploy.shrinking import shrink as shrink_model
    from idp_deploy.shrinking import zero_channels

    session = open_session(model, task, inputs, config, trust, weights_key)
    checkpoint = checkpoint_of(checkpoint)
    path = output_path(output, checkpoint.with_name(f"{checkpoint.stem}.small.pt"), checkpoint)
    before = session.compressed(checkpoint)
    if before.quantization is not None:
        raise UsageError(f"{checkpoint} is quantized already", way_out="shrink first, then quantize")
    if not zero_channels(before):
        raise UsageError(
            f"no channel in {checkpoint} is zero as a whole", way_out="prune with --pattern channel, then shrink"
        )
    after = shrink_model(before, session.example_inputs(session.task()))
    save_checkpoint(after, path)
    remember("checkpoint", [path])
    return Answer(shrinking_document(before, after, path, zero_channels(after), next=session.goes_on(path)))
