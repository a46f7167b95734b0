"""The verbs of the command line in Python, under the same words.

Each takes a module as it is as well as what an earlier verb returned, paths and device names as text, and returns a
thing of `flow` that says everything the report would; `render(thing, "markdown")` writes that report, and a notebook
shows it. Errors are those of the command line (`idp_deploy.errors`), with the same messages. What asks only about
files imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from idp_deploy.arguments import FilePath, arguments_of, names, number, path_of, plain, truth
from idp_deploy.configuration import checked
from idp_deploy.errors import UsageError, a_type
from idp_deploy.flow import Budget, CompressedModel, Contents, MaskedModel, Model, Recipe
from idp_deploy.formats import FORMATS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from idp_deploy.diffing import Difference
    from idp_deploy.flow import Artifact, Estimate, FormatName, Parity, Report
    from idp_deploy.pipeline import Deployment
    from idp_deploy.pruning import Comparison, Progress
    from idp_deploy.restoring import Restored
    from idp_deploy.simulation.targets import Target
    from idp_deploy.tasks import Task

    Limits = Mapping[str, Mapping[FormatName, Mapping[str, float | str]]]  # device → format → metric → quantity


def deploy(
    model: nn.Module | Model,
    task: Task | None = None,
    recipe: Recipe | None = None,
    *,
    to: Sequence[FormatName] = ("onnx",),
    output: FilePath = "build",
    stem: str = "model",
    targets: Sequence[str] = (),
    budgets: Sequence[Budget] | Limits = (),
    scheme: str | None = None,
    values: int | None = None,
    keep_float: Sequence[str] = (),
    encoding: str = "auto",
    one_shot: bool = False,
    inputs: tuple[Any, ...] | Tensor | None = None,
    announce: Callable[[str], None] = lambda _: None,
    **recipe_fields: Any,
) -> Deployment:
    """`idp-deploy run`: prune, harden, quantize if asked, export, verify, simulate and gate.

    Args:
        recipe: how to prune; or its fields by name: `sparsity=0.9, epochs=20, pattern="2:4"`.
        to: formats to write; `<output>/<stem>.pruned.<suffix>` each.
        targets: devices to simulate beside those that `budgets` name.
        budgets: limits as in configuration, `{"pixel-4": {"tflite": {"size": "600 kB"}}}`, or as `Budget`s.
        scheme: fp16, int8, int8-weights or lut4.
        values: of int8: distinct integers that a weight may have; 16 suits the Ethos-U.
        keep_float: globs over weights, and modules with all their parts, that are not quantized.
        one_shot: prune by magnitude, without training; then there need be no task, where `inputs` are given.
        inputs: one call's positional arguments; the task's by default.
        announce: told each stage as it begins.

    Returns:
        the compressed model, the files, and a report whose `passed` is the verdict of the gate.

    Raises:
        IdpDeployError: as the command line would end.
    """
    from idp_deploy import pipeline

    return pipeline.deploy(
        _model(model),
        _task_or_none(task),
        _recipe(recipe, recipe_fields),
        folder=path_of("output", output),
        stem=stem,
        formats=_some("to", to, "onnx"),
        targets=names("targets", targets, "pixel-4"),
        budgets=_budgets(budgets),
        scheme=scheme,
        values=values,
        keep_float=names("keep_float", keep_float, "head.*"),
        encoding=encoding,
        one_shot=truth("one_shot", one_shot),
        inputs=arguments_of("inputs", inputs),
        announce=announce,
    )


def prune(
    model: nn.Module | Model,
    task: Task,
    recipe: Recipe | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_dir: FilePath | None = None,
    resume: bool = False,
    **recipe_fields: Any,
) -> MaskedModel:
    """`idp-deploy prune --soft`: train with soft masks until the share of zeros is reached; `harden` comes next.

    Args:
        recipe: how to prune; or its fields by name.
        progress: told after every epoch.
        checkpoint_dir: where the state is kept that `resume` goes on from.
    """
    from idp_deploy import pruning

    chosen = _recipe(recipe, recipe_fields)
    folder = None if checkpoint_dir is None else path_of("checkpoint_dir", checkpoint_dir)
    return pruning.prune(
        _model(model), _task(task), chosen, progress=progress, checkpoint_dir=folder, resume=truth("resume", resume)
    )


def one_shot(
    model: nn.Module | Model,
    recipe: Recipe | None = None,
    *,
    example_inputs: tuple[Any, ...] | Tensor | None = None,
    **recipe_fields: Any,
) -> CompressedModel:
    """`idp-deploy prune --one-shot`: the smallest weights become zero, without data and without training.

    Args:
        recipe: how to prune; or its fields by name.
        example_inputs: one call's positional arguments; with them channels that are one in the network go together
            under the pattern "channel", so that `shrink` can take them out.
    """
    from idp_deploy import pruning

    example = arguments_of("example_inputs", example_inputs)
    return pruning.one_shot(_model(model), _recipe(recipe, recipe_fields), example)


def quantize(
    model: nn.Module | CompressedModel,
    scheme: str,
    *,
    task: Task | None = None,
    example_inputs: tuple[Any, ...] | Tensor | None = None,
    **options: Any,
) -> CompressedModel:
    """`idp-deploy quantize`: fewer bits a weight; zeros stay exactly zero. Options as `quantization.quantize`."""
    from idp_deploy import quantization

    example = arguments_of("example_inputs", example_inputs)
    return quantization.quantize(_compressed(model), scheme, task=task, example_inputs=example, **options)


def export(
    model: nn.Module | CompressedModel,
    format: FormatName,
    example_inputs: tuple[Any, ...] | Tensor,
    path: FilePath,
    *,
    encoding: str = "auto",
    **options: Any,
) -> Artifact:
    """`idp-deploy export`: one file with sparse weight encodings. `verify` it before it ships."""
    from idp_deploy import exporting
    from idp_deploy.pruning.staying import say_soft

    example = arguments_of("example_inputs", example_inputs, needed=True)
    if not isinstance(model, CompressedModel):
        say_soft(_model(model).module)
    return exporting.export(_compressed(model), format, example, path_of("path", path), encoding=encoding, **options)


def verify(
    artifact: FilePath | Contents,
    model: nn.Module | CompressedModel | None = None,
    example_inputs: Any = None,
    *,
    task: Task | None = None,
    **options: Any,
) -> Parity:
    """`idp-deploy verify`: run the file here, hold it against the model, prove the zeros from the file."""
    from idp_deploy import verification

    against = None if model is None else _compressed(model)
    return verification.verify(artifact, against, example_inputs, task=_task_or_none(task), **options)


def simulate(artifact: FilePath | Contents, target: Target | str, **options: Any) -> Estimate:
    """`idp-deploy simulate`: how long one inference takes on a device. Options as `simulation.simulate`."""
    from idp_deploy import simulation

    read = artifact if isinstance(artifact, Contents) else path_of("artifact", artifact)
    return simulation.simulate(read, _target(target), **options)


def check(
    artifacts: FilePath | Sequence[FilePath],
    *,
    targets: Sequence[Target | str] = (),
    budgets: Sequence[Budget] | Limits = (),
    baseline: FilePath | None = None,
    allow_missing: bool = False,
) -> Report:
    """`idp-deploy check`: the gate.

    Args:
        targets: devices to estimate on beside those that the budgets name.
        budgets: as of `deploy`.
        baseline: an earlier report of `check --json`; worse fails, and so does what it has no value for.
        allow_missing: a baseline may lack checks, or metrics that are budgeted.
    """
    from idp_deploy import baselines, gating, reading
    from idp_deploy.judging import judge

    paths = [path_of("artifacts", one) for one in _listed(artifacts)]
    if not paths:
        raise UsageError("no file is named", way_out="give the path of one, or of several in a list")
    earlier = () if baseline is None else baselines.baseline_budgets(path_of("baseline", baseline))
    configured, allow_missing = _budgets(budgets), truth("allow_missing", allow_missing)
    devices = {
        device.name: device for device in [*_targets(targets), *(_target(b.target) for b in (*configured, *earlier))]
    }
    if not devices:
        raise UsageError("no target and no budget is named", way_out='pass targets=["pixel-4"], or budgets')
    contents = [reading.read(path) for path in paths]
    earlier = baselines.bound(earlier, ((one.format, one.path) for one in contents))
    report, evidence = judge(contents, list(devices.values()), (*configured, *earlier))
    if baseline is not None and not allow_missing:
        lacking = gating.ungated(path_of("baseline", baseline), earlier, configured, evidence)
        report = replace(report, checks=[*report.checks, *lacking])
    return report


def compare(
    model: nn.Module | Model,
    task: Task,
    recipe: Recipe | None = None,
    *,
    methods: Sequence[str],
    sparsities: Sequence[float] = (0.9,),
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> Comparison:
    """`idp-deploy compare`: methods against each other on your own task, paired by seed."""
    from idp_deploy.pruning import comparing

    return comparing.compare(
        _model(model),
        _task(task),
        _recipe(recipe, {}),
        methods=_some("methods", methods, "idp"),
        sparsities=_listed(sparsities),
        seeds=_listed(seeds),
        **options,
    )


def diff(before: FilePath, after: FilePath, targets: Sequence[Target | str] = ()) -> Difference:
    """`idp-deploy diff`: two files layer by layer, of any formats and tools."""
    from idp_deploy import diffing

    return diffing.diff(path_of("before", before), path_of("after", after), _targets(targets))


def restore(source: FilePath, path: FilePath, *, encoding: str = "auto") -> Restored:
    """`idp-deploy restore`: the zeros of an .onnx file that another tool stored densely are left out again."""
    from idp_deploy import restoring

    return restoring.restore(path_of("source", source), path_of("path", path), encoding=encoding)


def targets() -> tuple[Target, ...]:
    """`idp-deploy targets`: every device profile there is, those under ./targets first."""
    from idp_deploy.simulation.targets import read_targets

    return tuple(read_targets()[0])


def render(result: object, format: str = "text") -> str | bytes:
    """The report of anything that a verb returned, in one of `--format`'s; bytes where it is a picture."""
    from idp_deploy import rendering
    from idp_deploy.rendering.results import document_of

    return rendering.render(document_of(result), str(format))


def _model(model: nn.Module | Model | CompressedModel) -> Model:
    if isinstance(model, MaskedModel):
        raise UsageError("this model's masks are still soft", way_out="harden(model) it first")
    if isinstance(model, CompressedModel):
        return Model(model.module, model.provenance)
    module = model.module if isinstance(model, Model) else model
    if not hasattr(module, "named_modules"):
        raise UsageError(
            f"model is {a_type(module)}",
            way_out="give a torch.nn.Module; load_model(path, factory) makes one of a file of weights",
        )
    return model if isinstance(model, Model) else Model(module)


def _compressed(model: nn.Module | Model | CompressedModel) -> CompressedModel:
    from idp_deploy.loading import as_it_stands

    return model if isinstance(model, CompressedModel) else as_it_stands(_model(model))


def _task_or_none(task: Task | None) -> Task | None:
    return None if task is None else _task(task)


def _task(task: Task) -> Task:
    if isinstance(task, type):
        raise UsageError(f"task is the class {task.__name__}", way_out=f"give one of it: {task.__name__}()")
    if not hasattr(task, "train_loader"):
        raise UsageError(
            f"task is {a_type(task)}, and training needs data",
            way_out='give a Task, as load_task("pkg.mod:task") does; one_shot(model) prunes without any',
        )
    return task


def _some(name: str, value: Any, example: str) -> tuple[str, ...]:
    if not (found := names(name, value, example)):
        raise UsageError(f"{name} is {value!r} and names nothing", way_out=f'give {name}=["{example}"]')
    return found


def _target(target: Target | str) -> Target:
    from idp_deploy.simulation.targets import Target, load_target

    return target if isinstance(target, Target) else load_target(target)


def _targets(targets: Any) -> list[Target]:
    from idp_deploy.simulation.targets import Target

    return [_target(one) for one in ([targets] if isinstance(targets, Target) else _listed(targets))]


def _listed(value: Any) -> list[Any]:
    """Several things, or one by itself."""
    if value is None:
        return []
    one = isinstance(value, str | os.PathLike) or not isinstance(value, Iterable) or number(value) is not None
    return [value] if one else list(value)


def _recipe(recipe: Recipe | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> Recipe:
    from idp_deploy.pruning.options import meant

    if isinstance(recipe, Mapping):
        fields = {**recipe, **fields}
        recipe = None
    if recipe is not None and not isinstance(recipe, Recipe):
        raise UsageError(f"recipe is {a_type(recipe)}", way_out="give Recipe(sparsity=0.9, …), or its fields")
    unknown = sorted(set(fields) - set(Recipe.__dataclass_fields__))
    if unknown:
        raise UsageError(f"a recipe has no {unknown[0]!r}", way_out=f"one of {', '.join(Recipe.__dataclass_fields__)}")
    return meant(replace(recipe or Recipe(), **fields))


def _budgets(budgets: Sequence[Budget] | Limits) -> tuple[Budget, ...]:
    if not isinstance(budgets, Mapping):
        found = () if budgets is None else (budgets,) if isinstance(budgets, Budget | str) else tuple(budgets)
        if wrong := [one for one in found if not isinstance(one, Budget)]:
            raise UsageError(
                f"{wrong[0]!r} is no budget", way_out='write budgets={"pixel-4": {"onnx": {"size": "600 kB"}}}'
            )
        return found
    unknown = [format for formats in budgets.values() for format in formats if format not in FORMATS]
    if unknown:
        raise UsageError(f"unknown format {unknown[0]!r} in budgets", way_out=f"one of {', '.join(FORMATS)}")
    return checked({"budgets": plain(budgets)}).budget_list()
