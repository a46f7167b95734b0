"""run: the whole pipeline from configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.cli.options import Json, ReportFile, ReportFormat
from idp_deploy.cli.output import emit, ready, say
from idp_deploy.cli.progress import EpochTable
from idp_deploy.cli.pruning import plan
from idp_deploy.cli.session import existing, open_session, remember
from idp_deploy.errors import ExitCode, UsageError
from idp_deploy.rendering.verdicts import report_document


def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Default: idp-deploy.toml or pyproject.toml here.", show_default=False),
    ] = None,
    output: ReportFile = None,
    format: ReportFormat = "text",
    json: Json = False,
) -> None:
    """Prune, harden, quantize, export, verify, simulate and gate, as configured.

    Exits 1 where a budget is broken or a file does not agree with the model.
    """
    from idp_deploy.pipeline import deploy
    from idp_deploy.tasks import rehearse

    ready(format, output, *([config] if config else []))
    session = open_session(config=config)
    settings = session.configuration
    task = session.task()
    weights = settings.path(settings.weights)
    if task is None or weights is None:
        absent = "task" if task is None else "weights"
        raise UsageError(
            f"'run' needs '{absent}' in configuration", way_out="'idp-deploy init' writes a file to fill in"
        )
    recipe, device = session.recipe()
    dense = session.model(existing(weights))
    rehearse(dense.module, task)
    if device is not None:
        recipe = replace(recipe, sparsity=plan(session, dense, task, recipe, device))
    with EpochTable() as progress:
        deployment = deploy(
            dense,
            task,
            recipe,
            folder=settings.path(settings.output) or weights.parent,
            stem=weights.stem,
            formats=settings.export.to,
            targets=settings.targets,
            budgets=settings.budget_list(),
            scheme=settings.quantize.scheme,
            encoding=settings.export.encoding,
            options=settings.export.special(settings.export.to),
            progress=progress,
            announce=say,
        )
    remember("checkpoint", [deployment.checkpoint])
    remember("artifacts", [artifact.path for artifact in deployment.artifacts])
    document = report_document(deployment.report, title=f"Run: {weights}")
    emit(document, format=format, json=json, output=output)
    if not document.passed:
        raise typer.Exit(ExitCode.GATE)
