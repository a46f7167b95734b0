"""Pruning in other people's trainers: `LightningPruning`, `TrainerPruning` (Hugging Face) and `AcceleratePruning`.

They take the arguments of `Pruner`, except `epochs` and `steps_per_epoch`, which the trainer knows, and
`on_unfinished` of `finalize`; they hold `pruner` during the training and `sparse`, the hardened model, after it.
Metrics are those of the hardened weights, checkpoints hold hardened weights (and, beside the masks, the dense ones to
resume from), and no score counts as the best, nor stops a run, before all zeros are there. The classes for trainers are
made when first asked for, so that neither package is imported, or needed, by anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy.errors import UsageError, require, warn
from idp_deploy.loading.checkpoints import TRAINER_STATE as STATE_FILE
from idp_deploy.pruning.lightning import (
    forget_scores,
    forget_stops,
    steps_ahead,
    trained_epochs,
    without_what_was_taken,
)
from idp_deploy.pruning.pace import Pace
from idp_deploy.pruning.pruner import Pruner
from idp_deploy.pruning.results import Finalized
from idp_deploy.pruning.resuming import save
from idp_deploy.pruning.shipping import Shipping, in_one_precision


class _Pruning:
    """What all share: a pruner planned for the steps to come, hardened metrics, the hardened model at the end."""

    _may_say: frozenset[str] = frozenset()

    def __init__(self, *, on_unfinished: Any = "warn", **settings: Any) -> None:
        super().__init__()
        for planned in ("epochs", "steps_per_epoch"):
            if planned in settings and planned not in self._may_say:
                raise UsageError(f"'{planned}' is the trainer's to say", way_out="leave it out")
        self.settings, self.on_unfinished = settings, on_unfinished
        self.pruner: Pruner | None = None
        self.sparse: Finalized | None = None
        self._saved: dict[str, Any] | None = None
        self._shipping: Any = None
        self._counts = False  # whether the last metrics were of all the zeros
        self._hard = ExitStack()

    @property
    def _unfinished(self) -> bool:
        pruner = self.pruner
        return pruner is not None and self.sparse is None and pruner.steps < pruner.plan.total

    def _begin(
        self,
        model: nn.Module,
        steps: float,
        epochs: float | None,
        optimizer: Any,
        *,
        left: float | None = None,
        done: int = 0,
    ) -> None:
        """Plan `steps` in `epochs` behind the `done` ones; of a state that is loaded `left` steps are to come."""
        if not 0 < steps < math.inf:
            raise UsageError(
                "the trainer does not say how many steps it will take, so the ramp cannot be planned",
                way_out="give it a number of epochs or of steps",
            )
        whole = max(1, math.ceil(epochs or 1))
        planned = {"epochs": whole, "steps_per_epoch": math.ceil(steps / whole), "optimizer": optimizer}
        if self._unfinished and self.pruner is not None:  # a run that ended with an error, or is tried again
            self._hard.close()
            self.pruner.detach()
            self._shipping.remove()
        self.sparse, self._counts = None, False
        self.pruner = Pruner(model, **{**planned, **self.settings})
        of_all = (whole + done) * (self.pruner.pace.total // whole)
        self.pruner.pace = Pace(whole + done, of_all, done=done)
        if self._saved is not None:
            self.pruner.load_state_dict(self._saved, left=left)
            self._saved = None
            self._counts = self.pruner.complete
        rounded = self.pruner.plan.total
        if "steps_per_epoch" not in self.settings and rounded - steps < whole:
            self.pruner.plan.total = min(rounded, int(steps))  # epochs of whole steps may be a few more
        self.pruner.prepare()
        self._shipping = model.register_state_dict_post_hook(Shipping(self.pruner))

    def _metrics_ahead(self) -> bool:
        """Harden for the metrics; whether scores so far are of fewer zeros and must not count."""
        if self.pruner is None or self.sparse is not None:
            return False
        self.pruner.held.settle()
        self.pruner.held.harden()
        self._hard.callback(self.pruner.plan.looked_at)  # once these are the weights again
        self._hard.callback(self.pruner.held.restore, among_others=True)
        forget, self._counts = not self._counts or not self.pruner.complete, self.pruner.complete
        return forget

    def _settle(self, *, wake: bool = True) -> None:
        if self.pruner is not None:
            self.pruner.held.settle()
            if wake:
                self.pruner.held.wake()

    def _end(self) -> None:
        self._hard.close()
        if self.pruner is not None and self.sparse is None:
            self.sparse = self.pruner.finalize(on_unfinished=self.on_unfinished)
            in_one_precision(self.sparse.module)
            self._shipping.remove()


class _Lightning(_Pruning):
    """Hooks of `lightning.pytorch.Callback`. Metrics and checkpoints see the exact zeros, training the soft masks."""

    _may_say = frozenset({"steps_per_epoch"})  # where a module takes its steps itself, it alone knows how many

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._steps_taken = self._begun_at = 0
        self._last_epoch = math.inf
        self._compared = False

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Behind callbacks that average or swap weights, before those that write checkpoints."""
        from lightning.pytorch.callbacks import Checkpoint

        others = [callback for callback in trainer.callbacks if callback is not self]
        last = [callback for callback in others if isinstance(callback, Checkpoint)]
        # another list: the trainer is walking over this one
        trainer.callbacks = [*(callback for callback in others if callback not in last), self, *last]

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Plan and prepare; weights of a checkpoint are loaded by now."""
        epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        steps = steps_ahead(trainer)
        self._last_epoch = trained_epochs(trainer)
        if epochs and self._last_epoch < epochs and (trainer.max_steps or -1) < 0:
            steps, epochs = steps * self._last_epoch / epochs, int(self._last_epoch)
        whole, left = epochs, steps - trainer.global_step if steps == trainer.max_steps else None  # else by epochs
        if self._saved is None:  # weights that trained without masks so far, or a second fit
            steps, epochs = without_what_was_taken(trainer, steps, epochs)
        done = (whole or 0) - (epochs or 0)
        self._begin(pl_module, steps, epochs, next(iter(trainer.optimizers), None), left=left, done=done)
        self._steps_taken = trainer.global_step
        assert self.pruner is not None
        self._begun_at = self.pruner.steps

    def on_train_batch_start(self, *_: Any) -> None:
        """Whoever swapped weights for the metrics has put back what was there."""
        self._settle()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """A step of the pruner where the optimizer took one: not while gradients accumulate."""
        trains = trainer.current_epoch < self._last_epoch
        if self.pruner is not None and trains and trainer.global_step != self._steps_taken:
            self._steps_taken = trainer.global_step
            self.pruner.step()
        self._go_on(trainer)

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        """Metrics of the training loop count from the moment on at which all zeros are there."""
        if self.pruner is not None and not self._counts:
            forget_scores(trainer)

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        """Harden for the metrics."""
        if self._metrics_ahead():
            forget_scores(trainer)

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        """Soft again."""
        self._hard.close()
        self._go_on(trainer)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """No early stop where the plan is to be finished; and after the first epoch whether the plan can be met."""
        self._go_on(trainer)
        if self.pruner is None or self.sparse is not None or trainer.lightning_module.automatic_optimization:
            return
        planned, taken = self.pruner.plan.total / self.pruner.recipe.epochs, self.pruner.steps - self._begun_at
        if not self._compared and abs(taken - planned) > 0.1 * planned:
            warn(
                f"the module took {taken} optimizer steps in its first epoch, where {planned:g} were planned (one a "
                "batch): by automatic_optimization = False it takes them itself",
                f"say how many: LightningPruning(…, steps_per_epoch={taken})",
            )
        self._compared = True

    def on_exception(self, *_: Any) -> None:
        """The weights as training had them, whatever went wrong."""
        self._hard.close()

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        """Exact zeros in the module's own weights, averaged ones if a callback has put them there."""
        if self.pruner is not None and any("Averaging" in type(callback).__name__ for callback in trainer.callbacks):
            self.pruner.plan.settled()
        self._end()

    def on_save_checkpoint(self, trainer: Any, pl_module: nn.Module, checkpoint: dict[str, Any]) -> None:
        """An average that another callback puts into the checkpoint gets the same zeros."""
        if self.pruner is not None and self.sparse is None:
            Shipping(self.pruner).harden(checkpoint["state_dict"])

    def state_dict(self) -> dict[str, Any]:
        """Part of every Lightning checkpoint."""
        return {} if self.pruner is None or self.sparse is not None else self.pruner.state_dict(dense=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts."""
        self._saved = state_dict or None

    def _go_on(self, trainer: Any) -> None:
        if self.on_unfinished == "finish" and self._unfinished:
            trainer.should_stop = False
            forget_stops(trainer)  # these look at the metric after all other callbacks


class _Trainer(_Pruning):
    """Hooks of `transformers.TrainerCallback`. The pruner's state lies in each checkpoint folder."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any = None, **_: Any
    ) -> None:
        """Plan and prepare; where training resumes, from the state in its checkpoint."""
        if state.global_step:
            file = _folder(args, state) / STATE_FILE
            if not file.exists():
                raise UsageError(
                    f"training resumes at step {state.global_step}, and '{file}', the masks of that step, is missing",
                    way_out="start anew",
                )
            self._saved = torch.load(file, map_location="cpu", weights_only=True)
        left = state.max_steps - state.global_step
        self._begin(model, state.max_steps, state.num_train_epochs, optimizer, left=left)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Whoever swapped weights for the metrics has put back what was there."""
        self._settle()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After every optimizer step."""
        if self.pruner is not None:
            self.pruner.step()
        self._look_ahead(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Metrics may be taken here."""
        self._look_ahead(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Soft again, and no early stop where the plan is to be finished."""
        self._hard.close()
        self._go_on(control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Masks, and the dense weights to resume from, beside the hardened ones."""
        folder = _folder(args, state)
        self._settle(wake=False)
        self._go_on(control)  # callbacks behind this one have said by now whether they want to stop
        if self.pruner is not None and state.is_world_process_zero and folder.is_dir():
            save(self.pruner.state_dict(dense=True), folder / STATE_FILE)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Exact zeros in the model's own weights, so that `save_model` writes them; the best ones, if these were
        loaded."""
        self._end()

    def _go_on(self, control: Any) -> None:
        if control.should_training_stop and self.on_unfinished == "finish" and self._unfinished:
            control.should_training_stop = False

    def _look_ahead(self, state: Any, control: Any) -> None:
        self._go_on(control)
        if control.should_evaluate and self._metrics_ahead():
            state.best_metric = state.best_model_checkpoint = None


class AcceleratePruning(_Pruning):
    """Pruning in a loop of one's own with `accelerate`: it counts accumulated and skipped steps, and is saved and
    loaded by `accelerator.save_state` and `load_state`.

    Args:
        accelerator: as the loop has it. settings: of `Pruner`, without epochs and steps_per_epoch.
    """

    def __init__(self, accelerator: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.accelerator = accelerator
        accelerator.register_for_checkpointing(self)

    def begin(self, model: nn.Module, optimizer: Any, loader: Any, epochs: int) -> nn.Module:
        """Plan for `epochs` passes over `loader` and put soft masks into the model; all three as prepared by it."""
        try:
            batches = len(loader)
        except TypeError:
            batches = 0
        steps = epochs * math.ceil(batches / self.accelerator.gradient_accumulation_steps)
        self._begin(model, steps, epochs, optimizer)
        self._shipping.remove()  # in a loop of one's own `hardened` says what is saved
        return model

    def state_dict(self) -> dict[str, Any]:
        """Part of every `save_state` folder."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """By `load_state`; before `begin` it is kept until then."""
        if self.pruner is None:
            self._saved = state or None
        elif state:
            self.pruner.load_state_dict(state)

    def step(self) -> None:
        """After every `optimizer.step()`, also while gradients accumulate."""
        if self.pruner is not None and self.accelerator.sync_gradients:
            self.pruner.step()

    def hardened(self) -> AbstractContextManager[nn.Module]:
        """Inside, metrics and `save_state` are of the exact zeros of this moment."""
        return self._running().hardened()

    @property
    def complete(self) -> bool:
        """Whether all zeros are there: scores count as the best from then on."""
        return self._running().complete

    def finalize(self) -> Finalized:
        """Exact zeros in the model's own weights."""
        self._running()
        self._end()
        assert self.sparse is not None
        return self.sparse

    def _running(self) -> Pruner:
        if self.pruner is None:
            raise UsageError("pruning has not begun", way_out="call begin(model, optimizer, loader, epochs)")
        return self.pruner


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _lightning() -> type:
    require("lightning", "callbacks")
    from lightning.pytorch import Callback

    return type("LightningPruning", (_Lightning, Callback), {"__module__": __name__, "__doc__": _Lightning.__doc__})


def _trainer() -> type:
    require("transformers", "callbacks")
    from transformers import TrainerCallback

    return type("TrainerPruning", (_Trainer, TrainerCallback), {"__module__": __name__, "__doc__": _Trainer.__doc__})


_MAKERS: dict[str, Callable[[], type]] = {"LightningPruning": _lightning, "TrainerPruning": _trainer}


def __getattr__(name: str) -> Any:
    if name not in _MAKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _MAKERS[name]()
    return made
