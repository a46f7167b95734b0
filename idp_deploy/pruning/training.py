"""The training loop: prune a model on a task, with accelerate for devices, processes and mixed precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.errors import DivergedError, UsageError, a_type
from idp_deploy.flow import CompressedModel, MaskedModel, Model, Recipe
from idp_deploy.masks import whole_copy
from idp_deploy.ownership import claim
from idp_deploy.pruning.allocation import allocate
from idp_deploy.pruning.copies import unwrapped
from idp_deploy.pruning.layers import Layer
from idp_deploy.pruning.options import SELECTION_OPTIONS, TRAINING_OPTIONS, check_options, known_options, meant
from idp_deploy.pruning.pruner import Pruner
from idp_deploy.pruning.resuming import TrainingState, fingerprint_of, load_state, save_state, state_file
from idp_deploy.pruning.shipping import in_one_precision
from idp_deploy.soundness import refuse_unsound
from idp_deploy.tasks import Task, evaluate, own_randomness, own_threads, seed_everything, to_device

DIVERGED = 1e3  # times its start: a loss beyond is no training any more
_SMALL_LOSS = 1e-2  # a model that has learnt its task begins near zero, and pruning rightly costs more than that


@dataclass(frozen=True)
class Progress:
    """One call of the progress callback: after every step, and after every epoch with the two accuracies.

    `soft` is what the masked model scores on the validation set, `hard` the same weights with the exact zeros of this
    moment: only the second one is what a user would get. Both are None between epochs.
    """

    epoch: int  # from 1
    epochs: int
    step: int  # steps done in the whole run
    steps: int
    phase: str  # dense | ramp | frozen
    loss: float  # mean over the epoch so far
    sparsity: float  # zeros now as a share of the prunable weights
    soft: float | None = None
    hard: float | None = None


def prune(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_dir: Path | None = None,
    resume: bool = False,
) -> MaskedModel:
    """Train `model` on `task` while its weights are pruned as `recipe` says.

    The argument, the caller's random state and the module's mode are untouched. On a CPU the same model, recipe and
    versions give the same bytes.

    Args:
        recipe: `epochs` 0 means the task's. `options` go to the `Pruner`, but for TRAINING_OPTIONS.
        checkpoint_dir: where the training state is kept after every epoch.
        resume: continue from that state, where there is one.

    Returns:
        The trained weights with their masks; `harden` makes the zeros exact.

    Raises:
        UsageError: a recipe that cannot be meant, a state of another run.
        DivergedError: the loss is no longer finite, or beyond DIVERGED times what it was at first.
    """
    from accelerate import Accelerator

    recipe = meant(recipe)
    recipe = replace(recipe, epochs=recipe.epochs or task.epochs)
    check_options(recipe.method, recipe.mode, recipe.options)
    chosen = {**known_options(recipe.method, recipe.mode), **recipe.options}
    settings = {name: chosen[name] for name in TRAINING_OPTIONS}
    with own_randomness(), own_threads():
        accelerator = Accelerator()
        seed_everything(recipe.seed)
        module = whole_copy(model.module).to(accelerator.device).train()
        teacher = deepcopy(module).eval().requires_grad_(False) if settings["distill"] else None
        run = _Run(accelerator, module, teacher, task, recipe, settings)
        kept = state_file(checkpoint_dir) if checkpoint_dir is not None else None
        if kept is not None and not resume:
            claim(kept)
        fingerprint = fingerprint_of(model.module)
        start = load_state(kept, recipe, fingerprint) if resume and kept is not None else None
        run.keeps_state = kept is not None
        first = run.restore(start) if start is not None else 0
        for epoch in range(first, recipe.epochs):
            run.epoch(epoch, progress)
            if kept is not None and accelerator.is_main_process:
                save_state(kept, run.state(epoch + 1, fingerprint))
        return run.finish(model)


def one_shot(model: Model, recipe: Recipe, example_inputs: tuple[Any, ...] | None = None) -> CompressedModel:
    """Prune by magnitude at once, without data and without training; expect to lose accuracy.

    Of the recipe's options those that choose weights count; the others speak of training.

    Args:
        example_inputs: one call's arguments; with them coupled channels go together, so that `shrink` can remove them.
    """
    recipe = meant(recipe)
    check_options(recipe.method, recipe.mode, recipe.options)
    refuse_unsound(model.module)
    module = whole_copy(unwrapped(model.module))
    options = {key: value for key, value in recipe.options.items() if key in SELECTION_OPTIONS}
    pruner = Pruner(
        module,
        sparsity=recipe.sparsity,
        epochs=1,
        method="magnitude",
        pattern=recipe.pattern,
        allocation=recipe.allocation,
        skip=recipe.skip,
        seed=recipe.seed,
        example_inputs=example_inputs,
        **options,
    )
    pruner.plan.total = 0  # nothing is to be trained
    finalized = pruner.finalize()
    step = f"prune --one-shot --target {recipe.sparsity}"
    provenance = replace(model.provenance, steps=(*model.provenance.steps, step))
    return CompressedModel(module, finalized.masks, replace(recipe, method="magnitude", epochs=0), None, provenance)


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: a linear rise, then half a cosine to zero.

    >>> [round(learning_rate_factor(step, 100, 0.1), 2) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    rise = int(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


class _Run:
    """One pruning run on this process."""

    def __init__(
        self,
        accelerator: Any,
        module: nn.Module,
        teacher: nn.Module | None,
        task: Task,
        recipe: Recipe,
        settings: Mapping[str, Any],
    ) -> None:
        self.accelerator, self.module, self.teacher = accelerator, module, teacher
        self.task, self.recipe, self.settings = task, recipe, settings
        self.start: float | None = None  # the first loss of this process
        self.keeps_state = False
        optimizer = _optimizer(task, module, settings)
        accumulation = accelerator.gradient_accumulation_steps
        self.steps_per_epoch = math.ceil(_length(self.loader(0)) / accumulation)
        self.steps = recipe.epochs * self.steps_per_epoch
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.steps, settings["warmup"])
        )
        self.pruner = pruner_for(
            module,
            recipe,
            to_device(task.example_inputs(), accelerator.device),
            steps_per_epoch=self.steps_per_epoch,
            loss=self.first_loss,
            optimizer=optimizer,
        )
        self.pruner.prepare()
        self.bare_optimizer = optimizer
        self.wrapped, self.optimizer = accelerator.prepare(module, optimizer)

    def loader(self, epoch: int) -> Any:
        """This process's share of an epoch's batches, moved to the device."""
        from accelerate.data_loader import prepare_data_loader

        return prepare_data_loader(
            self.task.train_loader(self.recipe.seed * 100_003 + epoch),
            self.accelerator.device,
            num_processes=self.accelerator.num_processes,
            process_index=self.accelerator.process_index,
            put_on_device=True,
        )

    def epoch(self, epoch: int, progress: Callable[[Progress], None] | None) -> None:
        """Train one epoch and report both accuracies."""
        # seeded anew each epoch, so that a resumed run draws what an uninterrupted one would
        seed_everything(self.recipe.seed * 100_003 + epoch + self.accelerator.process_index * 7)
        self.module.train()
        total, batches = 0.0, 0
        for batch in self.loader(epoch):
            with self.accelerator.accumulate(self.wrapped):
                loss = self.loss(batch)
                total, batches = total + float(loss.detach()), batches + 1
                self.refuse_divergence(float(loss.detach()), epoch)
                self.accelerator.backward(loss)
                self.optimizer.step()
                if self.accelerator.sync_gradients:
                    self.scheduler.step()
                    self.pruner.step()
                self.optimizer.zero_grad()
            if progress is not None:
                progress(self.progress(epoch, total / batches))
        if progress is not None:
            soft = evaluate(self.module, self.task)
            with self.pruner.hardened():
                frozen = self.pruner.schedule.phase(self.pruner.steps) == "frozen"
                hard = soft if frozen else evaluate(self.module, self.task)
            progress(replace(self.progress(epoch, total / max(batches, 1)), soft=soft, hard=hard))

    def refuse_divergence(self, loss: float, epoch: int) -> None:
        """Stop where the loss is no number or beyond DIVERGED times what it was at first."""
        if self.start is None and math.isfinite(loss):
            self.start = loss
        limit = DIVERGED * max(abs(self.start or 0.0), _SMALL_LOSS)
        if not math.isfinite(loss) or abs(loss) > limit:
            began = "" if self.start is None else f", from {self.start:.4g} at first"
            kept = f"; the state after epoch {epoch} is kept" if epoch and self.keeps_state else ""
            raise DivergedError(
                f"the loss became {loss:.4g} in epoch {epoch + 1}{began}{kept}",
                way_out="lower the learning rate of the task, or check its data",
            )

    def first_loss(self) -> Tensor:
        """The task's loss on the first training batch, the same in every process; running statistics are kept."""
        batch = to_device(next(iter(self.task.train_loader(self.recipe.seed * 100_003))), self.accelerator.device)
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        outputs = torch.func.functional_call(self.module, buffers, self.task.inputs(batch))
        return self.task.loss(outputs, batch)

    def loss(self, batch: Any) -> Tensor:
        """The task's loss, mixed with the teacher's where the recipe distils."""
        inputs = self.task.inputs(batch)
        outputs = self.wrapped(*inputs)
        loss = self.task.loss(outputs, batch)
        share = self.settings["distill"]
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = self.teacher(*inputs)
        temperature = self.settings["distill_temperature"]
        # Hinton et al. 2015, arXiv 1503.02531: T² keeps the gradient's size whatever the temperature
        distance = F.kl_div(
            F.log_softmax(_logits(outputs) / temperature, -1),
            F.log_softmax(_logits(wanted) / temperature, -1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - share) * loss + share * temperature**2 * distance

    def progress(self, epoch: int, loss: float) -> Progress:
        """Where the run stands."""
        step, sparsity = self.pruner.steps, self.pruner.sparsity
        return Progress(
            epoch + 1, self.recipe.epochs, step, self.steps, self.pruner.schedule.phase(step), loss, sparsity
        )

    def state(self, epochs_done: int, fingerprint: str) -> TrainingState:
        """Everything an uninterrupted run would carry into the next epoch."""
        return TrainingState(
            epochs_done=epochs_done,
            fingerprint=fingerprint,
            recipe=self.recipe,
            module=self.module.state_dict(),
            optimizer=self.bare_optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            pruner=self.pruner.state_dict(),
            threads=torch.get_num_threads(),
        )

    def restore(self, state: TrainingState) -> int:
        """Put a saved state back; the number of epochs it has done."""
        if (before := state.pruner["schedule"]["total"]) != self.steps:
            raise UsageError(
                f"the interrupted run had {before // self.recipe.epochs} steps an epoch, by its batch size, data and "
                f"processes, and this one has {self.steps_per_epoch}",
                way_out="repeat these, or start without --resume",
            )
        if state.threads:  # sums of another number of threads round otherwise
            torch.set_num_threads(state.threads)
        self.module.load_state_dict(state.module)
        self.bare_optimizer.load_state_dict(state.optimizer)
        self.scheduler.load_state_dict(state.scheduler)
        self.pruner.load_state_dict(state.pruner)
        return state.epochs_done

    def finish(self, model: Model) -> MaskedModel:
        """Take the trained weights out of the loop, onto the CPU."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for buffer in self.module.buffers():
                buffer.copy_(broadcast(buffer))  # running statistics differ between processes; the first one's count
        soft_masks = self.pruner.soft_masks()
        module = self.pruner.detach().cpu()
        in_one_precision(module)
        module.train(model.module.training)
        recipe = self.recipe
        step = f"prune --target {recipe.sparsity} --method {recipe.method} --pattern {recipe.pattern}"
        threads, steps = torch.get_num_threads(), (*model.provenance.steps, step)
        provenance = replace(model.provenance, seed=recipe.seed, threads=threads, steps=steps)
        return MaskedModel(module, soft_masks, recipe, provenance)


def pruner_for(
    module: nn.Module,
    recipe: Recipe,
    example_inputs: tuple[Any, ...],
    *,
    steps_per_epoch: int | None = None,
    loss: Callable[[], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Pruner:
    """The pruner of a recipe, once it is known that its target can be reached.

    Raises:
        UsageError: as `Pruner` does, and at once what allocation would refuse after the dense epochs.
    """
    pruner = Pruner(
        module,
        sparsity=recipe.sparsity,
        epochs=recipe.epochs,
        mode=recipe.mode,
        method=recipe.method,
        pattern=recipe.pattern,
        allocation=recipe.allocation,
        skip=recipe.skip,
        steps_per_epoch=steps_per_epoch,
        seed=recipe.seed,
        example_inputs=example_inputs,
        loss=loss,
        optimizer=optimizer,
        **{key: value for key, value in recipe.options.items() if key not in TRAINING_OPTIONS},
    )
    if recipe.sparsity:
        own = recipe.options.get("shares", {})
        layers = [
            Layer(s.name, s.weight.detach(), s.pattern, s.where.output_axis, share=own.get(s.name))
            for s in pruner.sites
        ]
        allocate(layers, recipe.sparsity, "uniform", recipe.options.get("multiple"))
    return pruner


def _optimizer(task: Task, module: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The task's own, its rates scaled so that the highest is the one asked for, or SGD."""
    rate = settings["learning_rate"]
    own = task.optimizer(module)
    if own is None:
        rate = rate or task.learning_rate or 0.05
        return torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=settings["weight_decay"])
    if not isinstance(own, torch.optim.Optimizer):
        raise UsageError(
            f"the task's optimizer(module) returns {a_type(own)}",
            way_out="return a torch.optim.Optimizer, or None for SGD",
        )
    if rate is not None:
        peak = max(group["lr"] for group in own.param_groups)
        for group in own.param_groups:
            group["lr"] *= rate / peak
    return own


def _logits(outputs: Any) -> Tensor:
    """What distillation compares: the outputs, or what they hold under "logits"."""
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        raise UsageError(
            f"distillation compares logits, and the model returns {a_type(outputs)} without any",
            way_out="return a tensor, or something that holds it under 'logits'; or leave out the option distill",
        )
    return found


def _length(loader: Any) -> int:
    try:
        return max(len(loader), 1)
    except TypeError as error:
        raise UsageError(
            "the task's train_loader has no length, so the ramp cannot be planned",
            way_out="give its dataset a __len__",
        ) from error
