"""Steps planned and steps taken: gradients that accumulate, steps that a scaler skipped, runs that stop early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from idp_deploy.errors import UsageError, warn
from idp_deploy.pruning.holding import is_in_train_mode
from idp_deploy.pruning.optimizers import at_each_step, bare_optimizer, trains
from idp_deploy.pruning.sites import Site

_SAMPLE = 64  # entries of a weight that tell whether somebody has written to it

_PATIENCE = 16  # calls: so often a GradScaler that starts at 2**16 halves its scale at most, until a step passes

OWN_FORWARD = "call the model itself: torch.func.functional_call(model, weights, inputs) takes other weights"

_PLAN = (
    "plan the optimizer steps that will be taken (len(loader) / accumulation an epoch), or train on before finalize(); "
    'on_unfinished="raise" stops here, "finish" trains the missing steps by loss= and optimizer=, "warn" goes on'
)


class Plan:
    """Holds what was planned against what the optimizer does.

    Args:
        total: optimizer steps planned, or epochs where `step()` is called once in each (`by_epoch`).
        optimizer: whose steps are counted, and those of any other that trains a pruned weight, such as one that
            takes its place; without one a step shows in the parameters' versions and values.
        epochs: after the first of them it is said which weights have not been trained.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], total: int, *, by_epoch: bool, epochs: int, optimizer: Any = None
    ) -> None:
        self.total, self.by_epoch, self.sites = total, by_epoch, sites
        self.furthest = 0  # the last step that was reached in this process
        self.idle = 0  # calls of step() without an optimizer step
        self._epoch = total // epochs
        self._model = model
        self._evidence: Any = None
        self._sample: list[Tensor] = []
        self._measured: list[Tensor] | None = None
        self._proven, self._unproven = False, 0
        self._told: set[str] = set()
        self._optimizer_steps: dict[int, int] = {}  # by optimizer, since `settled`
        self._strays = False  # whether `optimizer` steps, and none of what it trains is the model's any more
        self._under_way: set[int] = set()  # optimizers whose step has begun, and counts already
        self._handles: list[RemovableHandle] = []
        self._optimizer = bare = bare_optimizer(optimizer)
        self._counting = isinstance(bare, Optimizer) and trains(bare, sites)
        self.open()

    def advance(self) -> int:
        """By how many steps a call of `step()` moves on: 1, or 0 where the optimizer has taken none since the last.

        As long as no call has shown a step the calls count, since some optimizers leave no trace; the first trace takes
        those back.
        """
        taken = self._taken()
        if taken:
            back, self._unproven, self._proven = (0 if self._proven else self._unproven), 0, True
            self.idle += back
            if back:
                self._say_idle()
            if taken > 1 and not self.by_epoch:
                self._tell(
                    "behind",
                    f"the optimizer has taken {taken} steps since the last step() of the pruner, which counts one",
                    "call step() after every optimizer step, or leave steps_per_epoch out and call it once an epoch",
                )
            return 1 - back
        if not self._proven:
            self._unproven += 1
            self._say_unproven()
            return 1
        self.idle += 1
        self._say_idle()
        return 0

    def reached(self, step: int) -> None:
        """Says once that training goes on past the plan, and what the first epoch has not trained."""
        self.furthest = max(self.furthest, step)
        self._epoch -= 1
        if not self._epoch:
            self._say_apart()
        if step == self.total + 1:
            self._tell(
                "beyond",
                f"this is step {step} of {self.total} planned {self._unit}: the zeros came too early for this training",
                "plan all of its epochs and optimizer steps",
            )

    def settled(self) -> None:
        """From here on a change of the weights is somebody else's."""
        self._optimizer_steps.clear()
        self._evidence = None if self._handles else self._counts()
        self._sample = self._look()

    def written(self) -> bool:
        """Whether somebody has changed the weights since `settled`."""
        return not _are_same(self._look(), self._sample)

    def looked_at(self) -> None:
        """These weights were measured with hard masks."""
        self._measured = self._look()

    def measured(self) -> bool:
        """Whether the weights are those of `looked_at`."""
        return self._measured is not None and _are_same(self._measured, self._look())

    def unfinished(self, phase: str, zeros: int, target: int) -> tuple[str, str] | None:
        """What is missing at the end, with both numbers, and the way out; None where the plan was met."""
        if is_in_train_mode(self._optimizer):
            return (
                "the optimizer is in its train mode and keeps other weights for evaluation (schedule-free): its eval() "
                "would put these over the zeros",
                "call optimizer.eval() before hardened() and finalize()",
            )
        if self._unproven and not self._proven:
            return (
                f"step() was called {self._unproven} times, and before none of these calls the weights had changed, so "
                f"the {target:,} zeros were not trained with",
                "let gradients reach them (no torch.no_grad, requires_grad, the optimizer of this model, a finite loss "
                "where a GradScaler skips steps)",
            )
        if self.furthest >= self.total:
            if zeros < target:
                return (
                    f"the masks are those of an earlier step that was loaded, with {zeros:,} of {target:,} zeros: the "
                    f"other {target - zeros:,} go at once, untrained",
                    "keep as the best what was measured while pruner.complete",
                )
            if not self.idle:
                return None
            return (
                f"step() was called {self.furthest + self.idle} times and the optimizer took {self.furthest} of them "
                f"({self.total} planned): calls while gradients accumulate, or of steps that a GradScaler skipped, do "
                "not count",
                "call step() where the optimizer steps",
            )
        skipped = f" ({self.idle} more calls of step() came without an optimizer step)" if self.idle else ""
        said = f"training took {self.furthest} of the {self.total} {self._unit} planned{skipped}"
        if zeros < target:
            said += f" and ended at {zeros:,} of {target:,} zeros: the other {target - zeros:,} go at once, untrained"
        elif phase == "frozen":
            said += f": all {target:,} zeros were there, the frozen finish was cut short"
        else:
            said += f": all {target:,} zeros were there, but masks still soft: nothing was trained on the exact ones"
        return said, _PLAN

    def meet(self, on_unfinished: str, missing: tuple[str, str]) -> None:
        """Warn or refuse.

        Raises:
            UsageError: it was asked to.
        """
        if on_unfinished == "raise":
            raise UsageError(missing[0], way_out=missing[1])
        self._tell("unfinished", *missing)

    def train_on(self, model: nn.Module, loss: Callable[[], Tensor] | None, step: Callable[[], None]) -> None:
        """The steps that are missing, where it is known how to take them; each followed by a call of `step`."""
        optimizer = self._optimizer
        if loss is None or optimizer is None or self.furthest >= self.total:
            return
        modes = {m: m.training for m in model.modules()}
        model.train()
        with torch.enable_grad():
            for _ in range(self.total - self.furthest):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
                step()
            optimizer.zero_grad()
        for module, training in modes.items():
            module.training = training

    def open(self) -> None:
        """Count optimizer steps, where there is an optimizer."""
        if self._counting and not self._handles:
            # both: an optimizer's own hook behind a step, which may call step(), runs ahead of those of all, and a
            # closure computes the gradients only in the step
            self._handles = [at_each_step(self._begin, begins=True), at_each_step(self._count)]

    def close(self) -> None:
        """Leave optimizers alone."""
        while self._handles:
            self._handles.pop().remove()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _unit(self) -> str:
        return "epochs" if self.by_epoch else "steps"

    def _begin(self, optimizer: Optimizer) -> None:
        self._count(optimizer, begins=True)

    def _count(self, optimizer: Optimizer, *, begins: bool = False) -> None:
        if id(optimizer) in self._under_way:
            self._under_way.discard(id(optimizer))
            if not begins:
                return
        moved = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        self._strays = optimizer is self._optimizer and not trains(optimizer, self.sites)
        skipped = getattr(optimizer, "found_inf", None)  # a fused one is called by the GradScaler, and skips by itself
        if moved and trains(optimizer, self.sites) and not (skipped is not None and bool(skipped)):
            self._optimizer_steps[id(optimizer)] = self._optimizer_steps.get(id(optimizer), 0) + 1
            if begins:
                self._under_way.add(id(optimizer))

    def _counts(self) -> int:
        return sum(p._version for p in self._model.parameters() if not p.is_inference())

    def _taken(self) -> int:
        """Optimizer steps since `settled`; 1 stands for some where only the weights tell."""
        if self._handles:
            return max(self._optimizer_steps.values(), default=0)
        told = len(self._look()) == len(self.sites) == len(self._sample)  # of weights in parts nobody can tell
        return int(not told or self._counts() != self._evidence or self.written())

    def _look(self) -> list[Tensor]:
        found = []
        for site in self.sites:
            weight = site.live().detach()
            if type(weight) is Tensor and weight.numel():
                step = max(1, weight.numel() // _SAMPLE)
                # as they lie in memory: a reshape would copy a weight whose channels come last
                spread = weight.as_strided((weight.numel() // step,), (step,), weight.storage_offset())
                found.append(spread.clone())
        return found

    def _say_idle(self) -> None:
        if self._strays:
            self._tell(
                "strays",
                "the optimizer trains tensors that are not the model's any more: its parameters were exchanged "
                "(load_state_dict(…, assign=True), a conversion), and nothing trains those that are there now",
                "make the optimizer anew whenever parameters are exchanged, or load without assign=True",
            )
        self._tell(
            "idle",
            "step() was called though the optimizer has taken no step since the last call (gradients accumulate, a "
            "GradScaler skipped one, a copy of the model trains in its place, or the call stands ahead of the "
            "optimizer's step, where masks follow one step late): such calls do not count",
            "call it right after the optimizer's step",
        )

    def _say_unproven(self) -> None:
        if self._unproven > (1 if self.by_epoch else min(_PATIENCE, self.total // 2)):
            self._tell(
                "unproven",
                f"step() was called {self._unproven} times and the weights have not changed before any of these calls "
                "(a GradScaler skips every step, since gradients are inf or NaN, or no gradients reach them): zeros "
                "come as planned, and are not trained with",
                "look at scaler.get_scale(), at the loss, and whether the optimizer is this model's",
            )

    def _say_apart(self) -> None:
        """Weights that may train, and that no gradient can have reached: a mask that nothing answers to."""
        if not any(site.learns for site in self.sites):  # by its copies (MAML), or in a way that no hook sees
            graded = any(site.live().grad is not None for site in self.sites)
            if graded and not any(copy.trains for site in self.sites for copy in site.copies):
                self._tell(
                    "elsewhere",
                    "no forward of the model took gradients so far, though its weights change: where something else "
                    "computes with them (higher), no mask reaches it, and nothing learns to do without what goes; "
                    "gradients that are estimated from its results are fine",
                    OWN_FORWARD,
                )
            return
        apart = [s.name for s in self.sites if s.live().requires_grad and not s.learns and not s.copies]
        if apart:
            self._tell(
                "apart",
                f"{len(apart)} of {len(self.sites)} pruned weights were in no forward that takes gradients so far, "
                f"'{apart[0]}' first (a teacher, an average, the head of another task): they are pruned like all "
                "others, and nothing makes up for it",
                f'leave such weights out with skip = ["{apart[0]}", …], or give Pruner the part that trains and ships',
            )

    def _tell(self, topic: str, what: str, way_out: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            warn(what, way_out)


def _are_same(now: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    return len(now) == len(before) and all(torch.equal(a, b.to(a.device)) for a, b in zip(now, before, strict=True))
