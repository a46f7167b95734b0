"""The stages of a run: each leaves files and a plain result, and finds what it goes on from in memory or in the files.

prune → quantize (if asked) → export onnx, export coreml, … (each verified) → gate
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.aiming import WANTED, compile_artifact, place_of
from idp_deploy.errors import IdpDeployError, PrecisionError, UsageError
from idp_deploy.flow import Artifact, Budget, Contents, FormatName, Parity, Report, Shown
from idp_deploy.formats import FORMATS
from idp_deploy.legible import gathered
from idp_deploy.ownership import OUTPUT, claim, displace
from idp_deploy.reading import read
from idp_deploy.shipping import claim_artifacts, export_and_verify, refusals_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from idp_deploy.flow import CompressedModel, Model, Recipe
    from idp_deploy.history import History
    from idp_deploy.simulation.targets import Target
    from idp_deploy.tasks import Task

Announce = Callable[[str], None]
PRUNE, QUANTIZE, EXPORT, GATE = "prune", "quantize", "export {}", "gate"


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is to do. What takes time to load is a function, called by the first stage that needs it."""

    model: Callable[[], Model]
    task: Callable[[], Task | None]
    recipe: Callable[[Model, Task | None], Recipe]
    folder: Path
    stem: str
    formats: Sequence[FormatName]
    targets: Sequence[str] = ()
    budgets: Sequence[Budget] = ()
    scheme: str | None = None
    values: int | None = None  # distinct integers a weight may have
    keep_float: Sequence[str] = ()  # globs over weights and modules that are not quantized
    encoding: str = "auto"
    options: Mapping[FormatName, Mapping[str, Any]] = field(default_factory=dict)  # what one exporter alone takes
    compile_for: Sequence[Target] = ()  # by a vendor's compiler, once the file agrees with the model
    one_shot: bool = False  # by magnitude, without training
    inputs: Callable[[Task | None], tuple[Any, ...]] | None = None  # None: the task's
    checkpoint: Callable[[Path], CompressedModel] | None = None  # reads what an earlier run left

    @property
    def pruned(self) -> Path:
        """The checkpoint of `prune`."""
        return self.folder / f"{self.stem}.pruned.pt"

    @property
    def final(self) -> Path:
        """The checkpoint that is exported."""
        return self.folder / f"{self.stem}.pruned.{self.scheme}.pt" if self.scheme else self.pruned

    def artifact(self, format: FormatName) -> Path:
        """Where a file goes once it agrees with the model."""
        return self.folder / f"{self.final.stem}{FORMATS[format].suffix}"

    def files(self, format: FormatName) -> tuple[Path, ...]:
        """The same, and what is compiled from it."""
        targets = self.compile_for if format == WANTED else ()
        return (self.artifact(format), *(place_of(self.folder, self.final.stem, target) for target in targets))

    @property
    def names(self) -> tuple[str, ...]:
        """The stages in their order."""
        exports = (EXPORT.format(name) for name in self.formats)
        return (PRUNE, *((QUANTIZE,) if self.scheme else ()), *exports, GATE)

    def outputs(self, name: str) -> tuple[Path, ...]:
        """The files that a stage leaves."""
        places = {PRUNE: (self.pruned,), QUANTIZE: (self.final,), GATE: ()}
        return places[name] if name in places else self.files(name.split()[1])


@dataclass(frozen=True)
class Compressed:
    """What a checkpoint is like."""

    zeros: int
    prunable: int
    parameters: int
    accuracy: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""
    whole: int = 0  # parameters before channels were taken out


@dataclass(frozen=True, eq=False)
class Deployment(Shown):
    """What a run leaves behind."""

    checkpoint: Path
    parities: Mapping[FormatName, Parity]  # each with its artifact
    report: Report
    compressed: CompressedModel | None  # None where no stage had to load it
    refused: Mapping[FormatName, IdpDeployError] = field(default_factory=dict)  # what was not written, and why

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The files, one a format."""
        return tuple(parity.artifact for parity in self.parities.values())


class _RefusedError(Exception):
    """A format cannot be written; what goes wrong before a format is asked is raised as it is."""

    def __init__(self, why: IdpDeployError) -> None:
        super().__init__(str(why))
        self.why = why


class Run:
    """One run of a plan.

    Args:
        history: what was done before; without one everything is done.
        training: wraps the training alone and yields its progress callback.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        announce: Announce = lambda _: None,
        training: AbstractContextManager[Any] | None = None,
        history: History | None = None,
    ) -> None:
        self._plan, self._announce, self._training = plan, announce, training or nullcontext()
        self._history = history
        self._compressed: CompressedModel | None = None
        self._refused: dict[FormatName, IdpDeployError] = {}
        self._read: dict[Path, Contents] = {}  # files that this run has looked into already

    def go(self) -> Deployment:
        """Every stage that is not done, in order. A format that is refused leaves the others to be written and judged.

        Raises:
            UsageError: before any work, where something stands in the way of an output; else as the verbs, and what
                refuses the only format.
        """
        from idp_deploy.simulation.targets import load_target

        plan = self._plan
        self._make_way()
        for name in dict.fromkeys([*plan.targets, *(budget.target for budget in plan.budgets)]):
            load_target(name)
        pruned = self._stage(PRUNE, Compressed, self._prune)
        final = self._stage(QUANTIZE, Compressed, partial(self._quantize, pruned)) if plan.scheme else pruned
        parities = self._export()
        report = self._stage(GATE, Report, partial(self._gate, pruned, final, parities))
        return Deployment(plan.final, parities, report, self._compressed, self._refused)

    def _stage(self, name: str, kind: type[Any], work: Callable[[], Any], **more: Any) -> Any:
        return self._history.keep(name, kind, work, **more) if self._history else work()

    def _make_way(self) -> None:
        """Say before the work what may not be replaced; what was ours and is no more moves aside."""
        plan = self._plan
        for name in plan.names:
            for path in plan.outputs(name):
                if self._history and not self._history.why(name):
                    continue
                if self._history and self._history.made(path) and (moved := displace(path)):
                    self._announce(f"{path} is not as it was written: it is kept as {moved.name}")
                claim(path, elsewhere=OUTPUT)
        claim_artifacts(plan.folder, plan.final.stem, ())

    @cached_property
    def _model(self) -> Model:
        return self._plan.model()

    @cached_property
    def _task(self) -> Task | None:
        return self._plan.task()

    @cached_property
    def _example_inputs(self) -> tuple[Any, ...]:
        if self._plan.inputs is not None:
            return self._plan.inputs(self._task)
        if self._task is None:
            raise UsageError("the shape of the model's input is unknown", way_out="give inputs or a task")
        return self._task.example_inputs()

    def _at(self, path: Path) -> CompressedModel:
        """The checkpoint of the stage before, from memory or from its file."""
        if self._compressed is None:
            assert self._plan.checkpoint is not None, "a run with a history knows how to read its checkpoints"
            self._compressed = self._plan.checkpoint(path)
        return self._compressed

    def _prune(self) -> Compressed:
        from idp_deploy.hardening import harden
        from idp_deploy.loading import save_checkpoint
        from idp_deploy.pruning import by_reason, left_dense, one_shot, prune
        from idp_deploy.pruning.resuming import forget_state, is_foreign
        from idp_deploy.shrinking import shrink_as_asked
        from idp_deploy.tasks import evaluate, rehearse

        plan, model, task = self._plan, self._model, self._task
        if task is not None:
            rehearse(model.module, task)
        recipe = plan.recipe(model, task)
        accuracy = {"dense": evaluate(model.module, task)} if task else {}
        self._announce(f"pruning to {recipe.sparsity:.0%} zeros with {'magnitude' if plan.one_shot else recipe.method}")
        for reason, names in by_reason(left_dense(model.module, recipe, self._example_inputs)).items():
            self._announce(f"not pruned ({reason}): {gathered(names)}")
        work = plan.pruned.with_suffix(".resume") if self._history else None
        stood = work is not None and is_foreign(work)
        if plan.one_shot:
            compressed = one_shot(model, recipe, self._example_inputs)
        elif task is None:
            raise UsageError("training needs a task", way_out="give one, or prune by magnitude with one_shot")
        else:
            resumes = self._history is not None and self._history.resumes(PRUNE)
            with self._training as progress:
                masked = prune(model, task, recipe, progress=progress, checkpoint_dir=work, resume=resumes)
            compressed = harden(masked, task)
        if task is not None:
            accuracy["hardened"] = evaluate(compressed.module, task)
        counts, whole = (compressed.zeros, compressed.prunable), _parameters(compressed)
        compressed, reason = shrink_as_asked(compressed, self._example_inputs)
        if reason:
            self._announce(f"channels stay where they are, as zeros: {reason}")
        save_checkpoint(compressed, plan.pruned)
        if work is not None and not plan.one_shot:
            forget_state(work, keep_folder=stood)
        self._compressed = compressed
        left = _parameters(compressed)
        if left != whole:
            self._announce(f"channels taken out: {left:,} of {whole:,} parameters are left")
        return Compressed(*counts, left, accuracy, task.metric_name if task else "", whole)

    def _quantize(self, pruned: Compressed) -> Compressed:
        from idp_deploy.loading import save_checkpoint
        from idp_deploy.quantization import quantize
        from idp_deploy.tasks import evaluate

        plan, task = self._plan, self._task
        assert plan.scheme is not None
        self._announce(f"quantizing to {plan.scheme}")
        self._compressed = quantize(
            self._at(plan.pruned),
            plan.scheme,
            task=task,
            example_inputs=self._example_inputs if plan.inputs else None,
            values=plan.values,
            keep_float=plan.keep_float,
        )
        save_checkpoint(self._compressed, plan.final)
        accuracy = {plan.scheme: evaluate(self._compressed.module, task)} if task else {}
        return replace(pruned, accuracy=accuracy, parameters=_parameters(self._compressed))

    def _export(self) -> dict[FormatName, Parity]:
        plan = self._plan
        found = {}
        with self._tracing():
            for name in plan.formats:
                try:
                    parity: Parity = self._stage(
                        EXPORT.format(name),
                        Parity,
                        partial(self._export_one, name),
                        finished=lambda parity: parity.passed,
                        outputs=partial(self._left, name),
                    )
                except _RefusedError as refusal:
                    self._announce(f"{name} is refused: {refusal.why}")
                    self._refused[name] = refusal.why
                    continue
                if parity.passed:  # the folder may have been moved since
                    parity = replace(parity, artifact=replace(parity.artifact, path=plan.artifact(name)))
                found[name] = parity
        return found

    def _left(self, format: FormatName, parity: Parity) -> list[Path]:
        return list(self._plan.files(format)) if parity.passed else [parity.artifact.path]

    def _tracing(self) -> AbstractContextManager[None]:
        """One trace for all formats; where all of them are done, torch is not even imported."""
        if self._history and not any(self._history.why(EXPORT.format(name)) for name in self._plan.formats):
            return nullcontext()
        from idp_deploy.capturing import traced_once

        return traced_once()

    def _export_one(self, format: FormatName) -> Parity:
        from idp_deploy.relieving import too_coarse

        plan = self._plan
        model, inputs, task = self._at(plan.final), self._example_inputs, self._task
        refused: dict[FormatName, IdpDeployError] | None = {} if len(plan.formats) > 1 else None
        try:
            artifacts, parities = export_and_verify(
                *(model, inputs, plan.folder, plan.final.stem, [format], plan.encoding, task, self._announce),
                options=plan.options,
                refused=refused,
                contents=self._read,
            )
        except PrecisionError as error:
            raise self._with_layers(error, format) from error
        for artifact in artifacts:
            parity = parities[artifact.path]
            if too_coarse(parity):
                parity = replace(parity, notes=(*parity.notes, *self._spared(format)))
            with refusals_of(format, refused):
                for target in plan.compile_for if parity.passed and format == WANTED else ():
                    made = compile_artifact(artifact.path, target)
                    parity = replace(parity, notes=(*parity.notes, *made.notes))
                return parity
        why = (refused or {})[format]
        raise _RefusedError(self._with_layers(why, format) if isinstance(why, PrecisionError) else why)

    def _with_layers(self, error: PrecisionError, format: FormatName) -> PrecisionError:
        return PrecisionError(error.message, way_out="; ".join([error.way_out, *self._spared(format)]))

    def _spared(self, format: FormatName) -> list[str]:
        """What to write into the configuration so that a file of 8 bits agrees with the model, which was tried."""
        from idp_deploy.relieving import NONE, layers_to_spare

        plan, model = self._plan, self._at(self._plan.final)
        if model.quantization is None or model.quantization.scheme != "int8":
            return []
        asked = {format: {"encoding": plan.encoding, **plan.options.get(format, {})}}
        globs = layers_to_spare(model, asked, self._example_inputs, task=self._task)
        named = json.dumps([*plan.keep_float, *globs])
        return [f"with these layers float the file agrees: float = {named} under [quantize]" if globs else NONE]

    def _gate(self, pruned: Compressed, final: Compressed, parities: Mapping[FormatName, Parity]) -> Report:
        from idp_deploy.judging import judge
        from idp_deploy.simulation.targets import load_target

        plan = self._plan
        self._announce("simulating")
        devices = [load_target(name) for name in dict.fromkeys([*plan.targets, *(b.target for b in plan.budgets)])]
        paths = [parity.artifact.path for parity in parities.values()]
        contents = [self._read[path] if path in self._read else read(path) for path in paths]
        by_path = {parity.artifact.path: parity for parity in parities.values()}
        facts = {
            "metric": pruned.metric,
            "accuracy": {**pruned.accuracy, **final.accuracy},
            "zeros": pruned.zeros,
            "prunable": pruned.prunable,
            "parameters": final.parameters,
            "dense_parameters": pruned.whole or final.parameters,
            "dense_bytes": {str(one.path): one.dense_bytes for one in contents},
        }
        report, _ = judge(contents, devices, plan.budgets, parities=by_path, strict=True, refused=self._refused)
        return replace(report, facts=facts, refused={name: str(why) for name, why in self._refused.items()})


def _parameters(model: CompressedModel) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())
