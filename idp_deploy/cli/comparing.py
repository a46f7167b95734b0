"""compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idp_deploy.cli.options import Config, ModelFactory, Options, TaskFactory, WeightsKey
from idp_deploy.cli.output import say
from idp_deploy.cli.patience import Countdown
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import existing, open_session, share
from idp_deploy.errors import UsageError
from idp_deploy.ownership import claim
from idp_deploy.rendering.comparisons import comparison_document

if TYPE_CHECKING:
    from idp_deploy.pruning.results import Run


@reports(to_file=True)
def compare(
    checkpoint: Annotated[Path, typer.Argument(metavar="MODEL.pt", help="A state dict (.pt or .safetensors).")],
    methods: Annotated[str, typer.Option(metavar="NAME,NAME", help="The first is what the others are held against.")],
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARE", help="Share of zeros, repeatable.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, max=10_000, help="Paired runs of each method.")] = 3,
    tune: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="Settings each method chooses from, by runs on seeds that do not judge."),
    ] = 1,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Training epochs of each run.", show_default=False)
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            metavar="erk|global|lamp|uniform|sensitivity", help="The same for every method.", show_default=False
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="unstructured|free|2:4|1:4|block:1x4|channel", help="The same for all.", show_default=False
        ),
    ] = None,
    option: Options = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted comparison.")] = False,
    model: ModelFactory = None,
    task: TaskFactory = None,
    weights_key: WeightsKey = None,
    config: Config = None,
) -> Answer:
    """Prune with several methods on your own task and compare hardened accuracy, seed by seed."""
    from idp_deploy.pruning import METHODS
    from idp_deploy.pruning.comparing import compare as compare_methods
    from idp_deploy.pruning.resuming import fingerprint_of, load_runs, save_runs
    from idp_deploy.pruning.tuning import SEEDS
    from idp_deploy.tasks import rehearse

    session = open_session(model, task, config=config, weights_key=weights_key)
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    unknown = [name for name in names if name not in METHODS]
    if unknown or len(names) < 2:
        what = f"unknown method '{unknown[0]}'" if unknown else f"--methods {methods} names fewer than two"
        raise UsageError(what, way_out=f"known are {', '.join(METHODS)}")
    data = session.task()
    if data is None:
        raise UsageError("a comparison needs data", way_out="pass --task pkg.mod:task")
    recipe, _ = session.recipe(epochs=epochs, allocation=allocation, pattern=pattern, options=option)
    wanted: list[str | float] = list(target) if target else [recipe.sparsity]
    shares = list(dict.fromkeys(map(share, wanted)))
    if None in shares:
        raise UsageError("--target takes shares of zeros here", way_out="write --target 0.9 --target 0.95")

    kept = claim(
        existing(checkpoint).with_name(f"{checkpoint.stem}.compare.json"), elsewhere="copy the checkpoint elsewhere"
    )
    dense = session.model(checkpoint)
    rehearse(dense.module, data)
    fingerprint = fingerprint_of(dense.module)
    done = load_runs(kept, recipe, fingerprint) if resume else []
    if resume:
        say(f"{len(done)} runs are in {kept}" if done else f"nothing to resume at {kept}: starting anew")

    each = seeds + (SEEDS * tune if tune > 1 else 0)  # runs of a method at a share
    progress = Countdown(len(names) * len(shares) * each, len(done))

    def finished(run: Run) -> None:
        settings = "".join(f", {name}={value}" for name, value in run.settings.items())
        done.append(run)
        left = progress.left(len(done))
        say(f"{run.method} at {run.sparsity:g}, seed {run.seed}{settings}: {run.accuracy * 100:.2f} %{left}")
        try:
            save_runs(kept, done, recipe, fingerprint)
        except OSError as error:  # a folder that takes no files is no reason to lose the comparison
            say(f"{kept} cannot be written ({error.strerror}): --resume will not find this run")

    comparison = compare_methods(
        dense,
        data,
        recipe,
        methods=names,
        sparsities=[value for value in shares if value is not None],
        seeds=tuple(range(seeds)),
        finished=finished,
        known=tuple(done),
        tune=tune,
    )
    kept.unlink(missing_ok=True)
    return Answer(comparison_document(comparison, data.metric_name))
