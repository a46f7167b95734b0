"""Pruning in other people's trainers: `LightningPruning` for Lightning, `TrainerPruning` for Hugging Face's Trainer.

Both take the arguments of `Pruner`, except `epochs` and `steps_per_epoch`, which the trainer knows, and hold
`pruner` during the training and `sparse`, the hardened model, after it. The classes are made when first asked for, so
that neither package is imported, or needed, by anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy.errors import UsageError, require
from idp_deploy.files import replacing
from idp_deploy.pruning.pruner import Pruner
from idp_deploy.pruning.results import Finalized

STATE_FILE = "idp_deploy_pruner.pt"  # beside the Trainer's own files in a checkpoint folder


class _Pruning:
    """What both callbacks share: a pruner planned for the steps to come, and the hardened model at the end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        for planned in ("epochs", "steps_per_epoch"):
            if planned in settings:
                raise UsageError(f"'{planned}' is the trainer's to say", way_out="leave it out")
        self.settings = settings
        self.pruner: Pruner | None = None
        self.sparse: Finalized | None = None
        self._saved: dict[str, Any] | None = None

    def _begin(self, model: nn.Module, steps: float, epochs: float | None, optimizer: Any) -> None:
        if not 0 < steps < math.inf:
            raise UsageError(
                "the trainer does not say how many steps it will take, so the ramp cannot be planned",
                way_out="give it a number of epochs or of steps",
            )
        whole = max(1, math.ceil(epochs or 1))
        planned = {"epochs": whole, "steps_per_epoch": math.ceil(steps / whole), "optimizer": optimizer}
        self.pruner = Pruner(model, **{**planned, **self.settings})
        if self._saved is not None:
            self.pruner.load_state_dict(self._saved)
            self._saved = None
        self.pruner.prepare()

    def _end(self) -> None:
        if self.pruner is not None:
            self.sparse = self.pruner.finalize()


class _Lightning(_Pruning):
    """Hooks of `lightning.pytorch.Callback`. Validation sees the exact zeros of the moment, training the soft masks."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._steps_taken = 0
        self._hard = ExitStack()

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Plan and prepare; weights of a checkpoint are loaded by now."""
        epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        self._begin(pl_module, trainer.estimated_stepping_batches, epochs, next(iter(trainer.optimizers), None))
        self._steps_taken = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """A step of the pruner where the optimizer took one: not while gradients accumulate."""
        if self.pruner is not None and trainer.global_step != self._steps_taken:
            self._steps_taken = trainer.global_step
            self.pruner.step()

    def on_validation_start(self, *_: Any) -> None:
        """Harden for the metrics."""
        if self.pruner is not None and self.sparse is None:
            self._hard.enter_context(self.pruner.hardened())

    def on_validation_end(self, *_: Any) -> None:
        """Soft again, before checkpoints are written."""
        self._hard.close()

    def on_exception(self, *_: Any) -> None:
        """The weights as training had them, whatever went wrong."""
        self._hard.close()

    def on_train_end(self, *_: Any) -> None:
        """Exact zeros in the module's own weights."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """Part of every Lightning checkpoint."""
        return {} if self.pruner is None or self.sparse is not None else self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts."""
        self._saved = state_dict or None


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
        self._begin(model, state.max_steps, state.num_train_epochs, optimizer)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After every optimizer step."""
        if self.pruner is not None:
            self.pruner.step()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Masks beside the weights."""
        folder = _folder(args, state)
        if self.pruner is not None and state.is_world_process_zero and folder.is_dir():
            with replacing(folder / STATE_FILE) as temporary:
                torch.save(self.pruner.state_dict(), temporary)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Exact zeros in the model's own weights, so that `save_model` writes them."""
        self._end()


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
