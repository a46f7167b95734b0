"""run: the whole pipeline from configuration; what is done already is not done again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idp_deploy.cli.exporting import all_in_one
from idp_deploy.cli.output import say
from idp_deploy.cli.progress import EpochTable, StageLines
from idp_deploy.cli.pruning import plan as choose
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import Session, existing, open_session, remember
from idp_deploy.errors import IdpDeployError, UsageError
from idp_deploy.files import size_bytes
from idp_deploy.rendering.document import Document

if TYPE_CHECKING:
    from idp_deploy.flow import Model, Recipe
    from idp_deploy.history import History
    from idp_deploy.planning.expecting import Expectation
    from idp_deploy.stages import Plan
    from idp_deploy.tasks import Task


@reports(to_file=True)
def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Default: idp-deploy.toml or pyproject.toml here.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and why, and do nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Do every stage again.")] = False,
) -> Answer:
    """Prune, harden, quantize, export, verify, simulate and gate, as configured.

    A stage whose inputs are as they were is not done again, and a run that was killed goes on where it was: inputs are
    the contents of files, the configuration, the source of model and task, and versions.

    Exits 1 where a budget is broken or a file does not agree with the model; else 3 where a format was refused, which
    leaves the others to be written and judged.
    """
    from idp_deploy.cli.depending import stages_of
    from idp_deploy.history import History
    from idp_deploy.rendering.verdicts import report_document
    from idp_deploy.stages import Run

    with _words_first(config):
        session = open_session(config=config)
        weights = _weights(session)
        plan = _plan(session, weights)
        source = session.configuration.source
        roots = [Path.cwd(), *([source.parent] if source else [])]
        history = History(plan.folder / f"{plan.stem}.run.json", roots, force=force)
        history.expect(stages_of(session, plan, weights, history.digests))
    if any(history.why(name) for name in plan.names):
        _look_at_words(config)
    if dry_run:
        return Answer(_foretold(session, plan, history))
    with StageLines(plan.names, history.seconds) as lines:
        history.tell(lines)
        deployment = Run(plan, announce=say, training=EpochTable(), history=history).go()
    remember("checkpoint", [deployment.checkpoint])
    remember("artifacts", [artifact.path for artifact in deployment.artifacts])
    document = report_document(deployment.report, title=f"Run: {weights}")
    judged = all(check.verdict == "pass" for check in deployment.report.checks)
    if deployment.refused and judged and all(parity.passed for parity in deployment.parities.values()):
        return Answer(document, all_in_one(deployment.refused))
    return Answer.judged(document, document.passed)


@contextmanager
def _words_first(config: Path | None) -> Iterator[None]:
    """Where something is wrong, all mistakes of the configuration are said before it."""
    try:
        yield
    except IdpDeployError:
        _look_at_words(config)
        raise


def _look_at_words(config: Path | None) -> None:
    """Raise what a stage to come would refuse; it needs PyTorch, which a run with nothing to do does not load."""
    from idp_deploy import configuration
    from idp_deploy.cli.spelling import misspelt

    configuration.load(config, words=misspelt)


def _weights(session: Session) -> Path:
    """The file of weights, once all is said that a run has to be told.

    Raises:
        UsageError: no weights, or no task and nothing that makes one needless. FileError: the file is missing.
    """
    settings = session.configuration
    weights = settings.path(settings.weights)
    if weights is None:
        raise UsageError("'run' needs 'weights' in configuration", way_out="'idp-deploy init' writes a file to fill in")
    if session.task_spec is None and not settings.prune.one_shot:
        raise UsageError(
            "'run' needs 'task' in configuration, since IDP trains",
            way_out="name one, or set one-shot = true under prune for magnitude pruning without data",
        )
    if session.task_spec is None and not session.inputs:
        raise UsageError(
            "'run' without a task needs 'inputs' in configuration", way_out='such as inputs = ["1x3x224x224"]'
        )
    return existing(weights)


def _plan(session: Session, weights: Path) -> Plan:
    from idp_deploy.aiming import aim
    from idp_deploy.simulation.targets import load_target
    from idp_deploy.stages import Plan

    settings = session.configuration
    names = dict.fromkeys([*settings.targets, *(budget.target for budget in settings.budget_list())])
    aimed = aim(
        settings.export.to,
        [load_target(name) for name in names],
        scheme=settings.quantize.scheme,
        encoding=settings.export.encoding,
        options=settings.export.special(settings.export.to),
    )
    for note in aimed.notes:
        say(note)
    return Plan(
        model=lambda: session.model(weights),
        task=session.task,
        recipe=lambda model, task: _recipe(session, model, task),
        folder=settings.path(settings.output) or weights.parent,
        stem=weights.stem,
        formats=aimed.formats,
        targets=settings.targets,
        budgets=settings.budget_list(),
        scheme=settings.quantize.scheme,
        values=settings.quantize.values,
        keep_float=settings.quantize.float,
        encoding=settings.export.encoding,
        options=aimed.options,
        compile_for=aimed.compile_for,
        one_shot=settings.prune.one_shot,
        inputs=session.example_inputs,
        checkpoint=session.compressed,
    )


def _recipe(session: Session, model: Model, task: Task | None) -> Recipe:
    """As configured, and as its device rewards it most where it names one."""
    recipe, device = session.recipe()
    if device is None:
        return recipe
    return choose(session, model, task, recipe, device, free=session.leaves_open()).way.recipe


def _foretold(session: Session, plan: Plan, history: History) -> Document:
    """What would run; where a stage never ran, model and task are loaded to tell what it will take."""
    from idp_deploy.cli.depending import labels
    from idp_deploy.rendering.runs import Foretold, plan_document
    from idp_deploy.stages import PRUNE

    rows = []
    expected = None
    for name in plan.names:
        stage, why, seconds = history.stages[name], history.why(name), history.seconds(name)
        places = [path for path in plan.outputs(name) if path.exists()]
        size = sum(size_bytes(path) for path in places) or None
        rough = seconds is None
        if rough:
            expected = expected or _expected(session, plan)
            size = size or expected.size_bytes.get(name.rpartition(" ")[2])
            seconds = expected.training_seconds if name == PRUNE else None
        rows.append(Foretold(name, why, labels(stage), list(map(str, stage.outputs)), seconds, size, rough))
    notes = []
    if expected is not None:
        timed = "" if expected.training_seconds is None else "a few training steps were timed, and "
        notes.append(f"≈ before the first run: {timed}bytes counted for zeros and values")
    return plan_document(rows, notes)


def _expected(session: Session, plan: Plan) -> Expectation:
    from idp_deploy.planning.expecting import expect

    model, task = plan.model(), None if plan.one_shot else plan.task()
    recipe, _ = session.recipe()
    return expect(model.module, task, recipe, plan.scheme, tuple(plan.formats))
