"""prune and harden."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idp_deploy.cli.options import (
    Config,
    Inputs,
    ModelFactory,
    NewCheckpoint,
    Options,
    Rules,
    Start,
    TaskFactory,
    Trust,
    WeightsKey,
)
from idp_deploy.cli.output import output_path, say
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.progress import EpochTable
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import Session, existing, open_session, remember
from idp_deploy.errors import UsageError
from idp_deploy.formats import FORMATS
from idp_deploy.rendering.choices import with_choice
from idp_deploy.rendering.document import Document
from idp_deploy.rendering.models import compression_document

if TYPE_CHECKING:
    from idp_deploy.flow import CompressedModel, MaskedModel, Model, Recipe
    from idp_deploy.planning import Choice
    from idp_deploy.simulation.targets import Target
    from idp_deploy.tasks import Task


@reports()
def prune(
    checkpoint: Start = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="SHARE|DEVICE",
            help="Share of zeros to reach, or a device whose budgets to meet.",
            show_default=False,
        ),
    ] = None,
    model: ModelFactory = None,
    task: TaskFactory = None,
    inputs: Inputs = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="unstructured|free|2:4|1:4|block:1x4|channel", help="Where zeros may lie.", show_default=False
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="idp|gmp|…", help="How weights are chosen.", show_default=False)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(metavar="auto|paper", help="IDP's temperature, allocation and ramp.", show_default=False),
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            metavar="erk|global|lamp|uniform|sensitivity", help="How zeros are shared out.", show_default=False
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Weights that stay dense, repeatable.", show_default=False)
    ] = None,
    rule: Rules = None,
    option: Options = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Training epochs.", show_default=False)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of data order and initial state.", show_default=False)
    ] = None,
    one_shot: Annotated[
        bool | None,
        typer.Option(
            help="By magnitude, with no data. Default: as configured, unless --task is given.", show_default=False
        ),
    ] = None,
    soft: Annotated[bool, typer.Option("--soft", help="Stop before hardening.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    output: NewCheckpoint = None,
    weights_key: WeightsKey = None,
    trust: Trust = False,
    config: Config = None,
) -> Answer | None:
    """Train with soft masks until a share of the weights is zero, then harden them."""
    from idp_deploy import loading
    from idp_deploy.flow import CompressedModel
    from idp_deploy.hardening import harden as harden_model
    from idp_deploy.pruning import left_dense
    from idp_deploy.pruning import one_shot as prune_one_shot
    from idp_deploy.pruning import prune as prune_model
    from idp_deploy.pruning.resuming import forget_state, is_foreign
    from idp_deploy.shrinking import prunes_channels
    from idp_deploy.tasks import evaluate, rehearse

    session = open_session(model, task, inputs, config, trust, weights_key)
    checkpoint = session.weights(checkpoint)
    if one_shot is None:
        one_shot = session.configuration.prune.one_shot and task is None
    if one_shot and (soft or resume):
        raise UsageError(
            f"--one-shot does not train, so there is nothing to {'keep soft' if soft else 'resume'}",
            way_out="leave one of the two flags out",
        )
    path = output_path(output, checkpoint.with_name(f"{checkpoint.stem}.{'soft' if soft else 'pruned'}.pt"), checkpoint)
    recipe, device = session.recipe(
        target=target,
        pattern=pattern,
        method=method,
        mode=mode,
        allocation=allocation,
        skip=skip,
        rules=rule,
        options=option,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    dense = session.model(checkpoint)
    data = session.task()
    free = session.leaves_open(pattern=pattern, allocation=allocation, rules=rule)
    choice = plan(session, dense, data, recipe, device, free=free) if device is not None else None
    recipe = choice.way.recipe if choice else recipe
    example = session.example_inputs(data) if data or session.inputs else None
    left = left_dense(dense.module, recipe, example)
    facts: dict[str, float] = {}
    if one_shot:
        say("pruning by magnitude alone, without training: expect to lose accuracy")
        compressed: CompressedModel | MaskedModel = prune_one_shot(dense, recipe, example)
    else:
        if data is None:
            raise UsageError(
                "IDP trains while it prunes, and no task says with which data",
                way_out="pass --task pkg.mod:task, or --one-shot to prune by magnitude without data",
            )
        rehearse(dense.module, data)
        with Waiting():
            facts["dense"] = evaluate(dense.module, data)
        work = (output or checkpoint.with_name(f"{checkpoint.stem}.pruned.pt")).with_suffix(".resume")
        stood = is_foreign(work)
        if resume and not work.exists():
            say(f"nothing to resume at {work}: starting anew")
        with EpochTable() as table:
            masked = prune_model(
                dense,
                data,
                recipe,
                progress=table,
                checkpoint_dir=work,
                resume=resume,
            )
        with Waiting():
            compressed = masked if soft else harden_model(masked, data)
    if os.environ.get("RANK", "0") != "0":
        return None  # every process has the same masks; the first one writes
    if data is not None:
        with Waiting():
            facts["soft" if soft and not one_shot else "hardened"] = evaluate(compressed.module, data)
    loading.save_checkpoint(compressed, path)
    if not one_shot:
        forget_state(work, keep_folder=stood)
    remember("checkpoint", [path])
    follow = session.goes_on(path)
    if soft or prunes_channels(recipe):
        follow = session.follow("harden" if soft else "shrink", path, inputs=not soft)
    document = _document(compressed, path, facts, follow, data.metric_name if data else "", left)
    if choice and isinstance(compressed, CompressedModel):
        document = with_choice(document, choice, choice.figures_of(compressed))
    return Answer(document)


@reports()
def harden(
    checkpoint: Annotated[Path, typer.Argument(metavar="SOFT.pt", help="What 'prune --soft' wrote.")],
    model: ModelFactory = None,
    task: TaskFactory = None,
    output: NewCheckpoint = None,
    config: Config = None,
) -> Answer:
    """Turn soft masks into exact zeros; with a task, batch norm is recalibrated."""
    from idp_deploy import loading
    from idp_deploy.flow import MaskedModel
    from idp_deploy.hardening import harden as harden_model
    from idp_deploy.tasks import evaluate

    session = open_session(model, task, config=config)
    stem = checkpoint.name.removesuffix(".pt").removesuffix(".soft")
    path = output_path(output, checkpoint.with_name(f"{stem}.pruned.pt"), existing(checkpoint))
    masked = loading.load_checkpoint(checkpoint, session.factory)
    if not isinstance(masked, MaskedModel):
        raise UsageError(f"{checkpoint} is hardened already", way_out=session.follow("export", checkpoint, "--to all"))
    data = session.task()
    with Waiting():
        compressed = harden_model(masked, data)
        facts = {"soft": evaluate(masked.module, data), "hardened": evaluate(compressed.module, data)} if data else {}
    loading.save_checkpoint(compressed, path)
    remember("checkpoint", [path])
    follow = session.goes_on(path)
    return Answer(_document(compressed, path, facts, follow, data.metric_name if data else ""))


def _document(
    model: CompressedModel | MaskedModel,
    path: Path,
    facts: dict[str, float],
    follow: str,
    metric: str,
    left: Mapping[str, str] | None = None,
) -> Document:
    return compression_document(model, path, accuracies=facts, metric=metric, next=follow, left=left)


def plan(session: Session, dense: Model, task: Task | None, recipe: Recipe, device: Target, *, free: bool) -> Choice:
    """The way to prune that meets the device's configured budgets and costs the least.

    Args:
        free: whether nobody has named pattern, allocation or rules; then the device's own ways compete.
    """
    from idp_deploy.planning import Shipped, choose, ways_for

    settings = session.configuration
    shipped = Shipped(
        scheme=settings.quantize.scheme,
        values=settings.quantize.values,
        keep_float=settings.quantize.float,
        encoding=settings.export.encoding,
        options=settings.export.special(tuple(FORMATS)),
    )
    patterns = ways_for(device, recipe) if free else (recipe.pattern,)
    say(f"looking for what meets the budgets of {device.name} and keeps the most")
    choice = choose(
        *(dense, session.example_inputs(task), recipe, device, settings.budget_list(), patterns),
        free=free,
        shipped=shipped,
        task=task,
        announce=say,
    )
    say(f"for {device.name}, by {choice.said_by}, {choice.way}")
    return choice
