"""deploy: the verbs composed, from a trained model to a gated report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.aiming import aim
from idp_deploy.flow import Budget, FormatName
from idp_deploy.simulation.targets import load_target
from idp_deploy.stages import Deployment, Plan, Run

if TYPE_CHECKING:
    from idp_deploy.flow import Model, Recipe
    from idp_deploy.tasks import Task

Announce = Callable[[str], None]


def deploy(
    model: Model,
    task: Task | None,
    recipe: Recipe,
    *,
    folder: Path,
    stem: str = "model",
    formats: Sequence[str],
    targets: Sequence[str],
    budgets: Sequence[Budget] = (),
    scheme: str | None = None,
    values: int | None = None,
    keep_float: Sequence[str] = (),
    encoding: str = "auto",
    options: Mapping[FormatName, Mapping[str, Any]] | None = None,
    one_shot: bool = False,
    inputs: tuple[Any, ...] | None = None,
    progress: Any = None,
    announce: Announce = lambda _: None,
) -> Deployment:
    """Prune, harden, remove channels if that was pruned, quantize if asked, export, verify, simulate and gate.

    Args:
        folder: where `<stem>.pruned.pt` and the exported files go.
        formats: what to write; "ethos-u" also compiles the .tflite file for those of the targets that have one.
        targets: device names to simulate beside those that `budgets` name.
        values: distinct integers that an int8 weight may have.
        keep_float: globs over weights and modules that are not quantized.
        options: for each format what its exporter alone takes (`precision`, `io`).
        one_shot: prune by magnitude, without training; then `task` may be None, where `inputs` are given.
        inputs: one call's positional arguments; the task's by default.
        announce: told each stage as it begins.
    """
    names = dict.fromkeys([*targets, *(budget.target for budget in budgets)])
    aimed = aim(formats, [load_target(name) for name in names], scheme=scheme, encoding=encoding, options=options)
    plan = Plan(
        model=lambda: model,
        task=lambda: task,
        recipe=lambda _model, _task: recipe,
        folder=folder,
        stem=stem,
        formats=aimed.formats,
        targets=targets,
        budgets=budgets,
        scheme=scheme,
        values=values,
        keep_float=keep_float,
        encoding=encoding,
        options=aimed.options,
        compile_for=aimed.compile_for,
        one_shot=one_shot,
        inputs=None if inputs is None else lambda _task: inputs,
    )
    return Run(plan, announce=announce, training=nullcontext(progress)).go()
