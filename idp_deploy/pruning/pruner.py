"""Pruner: pruning in anybody's training loop.

pruner = Pruner(model, sparsity=0.9, epochs=20, steps_per_epoch=len(loader), optimizer=optimizer)
model = pruner.prepare()
for batch in loader: ...; loss.backward(); optimizer.step(); optimizer.zero_grad(); pruner.step()
sparse = pruner.finalize()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError, warn
from idp_deploy.flow import Recipe, SoftMask
from idp_deploy.pruning.assembling import assemble, defaults_of
from idp_deploy.pruning.belonging import refuse_other, settings
from idp_deploy.pruning.copies import PrunerCopy, eagerly, forget_compiled, unwrapped
from idp_deploy.pruning.elsewhere import find, harden_averages
from idp_deploy.pruning.gates import attach_gates
from idp_deploy.pruning.holding import Holding
from idp_deploy.pruning.masking import LOOKS
from idp_deploy.pruning.optimizers import at_each_step, bare_optimizer, trains
from idp_deploy.pruning.options import meant
from idp_deploy.pruning.outside import Beside, others, say_written
from idp_deploy.pruning.pace import Pace, resumed
from idp_deploy.pruning.plan import Plan
from idp_deploy.pruning.results import Finalized, PruningReport
from idp_deploy.pruning.schedule import Schedule
from idp_deploy.pruning.sharding import refuse_flat, say_unreduced
from idp_deploy.pruning.sites import attach
from idp_deploy.pruning.staying import (
    refuse_keras,
    refuse_replaced,
    refuse_shared_memory,
    refuse_unread,
    say_still,
    say_unpruned,
)

OnUnfinished = Literal["warn", "raise", "finish"]


class Pruner:
    """Prunes `model` in place while somebody else trains it.

    Args:
        model: any module; its parameters stay where they are, so an optimizer may exist already.
        sparsity: share of zeros over the prunable weights at the end, 0 ≤ sparsity < 1; or as text, "80%".
        epochs: length of the training to come.
        mode: "auto" (τ = t²/10 a layer, derivative between 1 and a floor that falls to 0, with an adaptive optimizer
            t²/100 and 1; ERK, from 90 % zeros LAMP, an early cubic ramp that waits if the model is not trained yet,
            the last 30 % on the frozen mask) or "paper" (τ = 1e-4, derivative as derived, global magnitude, slow
            linear ramp, hardened at the end).
        method: a row of METHODS. pattern: see `parse_pattern`. allocation: a row of ALLOCATIONS, or "auto".
        skip: globs over weight names that stay dense.
        steps_per_epoch: optimizer steps in an epoch, len(loader) / accumulation; None where `step()` is called once an
            epoch.
        seed: for methods that draw random numbers.
        example_inputs, loss: one call's arguments, and a function giving the loss of `model` on some training data,
            for the methods that rank weights before training and for allocation by sensitivity.
        optimizer: what trains the weights, where it exists already. Its steps are counted against the plan. With an
            adaptive one (Adam and its kin) single entries get a nearly hard mask and a derivative of 1 in "auto" mode:
            the size of a derivative cancels there, and what a soft mask leaves undecided is lost when it is frozen.
            One that is not given is known by its first step.
        options: first, last, depthwise, embeddings, rules (which weights); dense, ramp, finish or, in paper mode,
            start, rate, finish (when); the rest goes to the method.

    Raises:
        UsageError: a setting that cannot be meant, a pattern that does not divide a weight, NaN or inf in a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sparsity: float | str = 0.9,
        epochs: int = 20,
        mode: str = "auto",
        method: str = "idp",
        pattern: str = "unstructured",
        allocation: str = "auto",
        skip: Sequence[str] = (),
        steps_per_epoch: int | None = None,
        seed: int = 0,
        example_inputs: tuple[Any, ...] | Tensor | None = None,
        loss: Callable[[], Tensor] | None = None,
        optimizer: Any = None,
        **options: Any,
    ) -> None:
        refuse_flat(model)
        refuse_keras(model)
        self.model, self._bare = model, unwrapped(model)
        given = (sparsity, method, pattern, mode, allocation, epochs, seed, skip, dict(sorted(options.items())))
        self.recipe = meant(Recipe(*given))  # type: ignore[arg-type]
        self._masks, self.left = assemble(
            self._bare,
            self.recipe,
            steps_per_epoch=steps_per_epoch,
            example_inputs=example_inputs,
            loss=loss,
            optimizer=optimizer,
        )
        self.sites, self.method = self._masks.sites, self._masks.method
        self.allocation, self.followers = self._masks.allocation, self._masks.followers
        self._optimizer = bare_optimizer(optimizer)
        told = {"by_epoch": steps_per_epoch is None, "epochs": self.recipe.epochs, "optimizer": optimizer}
        self.plan = Plan(self._bare, self.sites, self.schedule.total, **told)
        self.steps, self.pace = 0, Pace(self.recipe.epochs, self.schedule.total)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._begun = self._finalized = False
        self._known = {name for name, _ in self._bare.named_parameters()}
        self.held = Holding(self._masks, self._optimizer)  # hard weights for a while
        self._beside: Beside | None = None  # the weights that belong to a state that was loaded

    @eagerly
    def prepare(self) -> nn.Module:
        """Put soft masks in place of the weights; returns the model, the same object with the same state dict.

        A deep copy made from now on is plain: its weights hold what the masks make of them at that moment.
        """
        if self._beside is not None:
            self._beside.look()
        if not self._begun:
            refuse_shared_memory(self.sites)
            with ExitStack() as undo:
                undo.callback(self.detach)
                for site in self.sites:
                    self._handles += attach(self._bare, site)
                self._handles += attach_gates(self._bare, self._masks.followers)
                if self._optimizer is None:
                    self._handles.append(at_each_step(self._follow))
                self.method.begin(self._masks.surroundings)
                if not self.steps:  # a loaded state says what its step computes
                    with self._masks.whole():
                        self._masks.refresh(0)
                undo.pop_all()
            forget_compiled()
            self._begun = True
            if not self.steps and self.recipe.sparsity:
                say_still(self._bare, self.sites)
            if not self.method.trains:
                say_unreduced(self.model, self.method.name)
            self.plan.open()
            self.plan.settled()
        return self.model

    @eagerly
    def step(self) -> None:
        """To be called after each `optimizer.step()`: new thresholds, and the ramp moves on.

        A call without an optimizer step since the last one does not count. After `finalize` it puts back the zeros that
        training on would fill.

        Raises:
            UsageError: a weight has become NaN or inf, is trained but never read through its layer, or was replaced.
        """
        if not self._begun:
            raise UsageError(
                "step() without masks in the model: before prepare(), or after detach()",
                way_out="call model = pruner.prepare() before training",
            )
        self._refuse_inside_hardened("step()")
        self._go_on(look=False)
        if self.steps % LOOKS == 0:
            refuse_replaced(self._bare, self.sites)
        if self.steps == 0 and not self._finalized:
            refuse_unread(self.sites)
        with self._masks.whole(), self._masks.unnoticed():
            if self._finalized:
                self._masks.freeze()
            elif moved := self.plan.advance():
                self.steps += moved
                self.plan.reached(self.steps)
                self._masks.refresh(self.steps)
        self.plan.settled()

    def report(self) -> PruningReport:
        """Where pruning stands now; zeros that are there already are counted in the weights."""
        with self._masks.whole():
            zeros = {
                site: site.zeros
                if site.mask is None or site in self.held.weights
                else int((site.weight[~site.mask] == 0).sum())
                for site in self.sites
            }
        return PruningReport(
            step=self.steps,
            phase=self.schedule.phase(self.steps),
            prunable=sum(site.weight.numel() for site in self.sites),
            of_all=sum(p.numel() for p in self.model.parameters()),
            zeros=sum(zeros.values()),
            target_zeros=self._masks.target,
            layers={site.name: (count, site.weight.numel()) for site, count in zeros.items()},
            left=self.left,
            planned=self.plan.total,
        )

    @property
    def schedule(self) -> Schedule:
        """When zeros come, counted in steps."""
        return self.method.schedule

    @property
    def sparsity(self) -> float:
        """Zeros that hardening at this moment would give, as a share of the prunable weights; costs nothing."""
        return self._masks.zeros / sum(site.weight.numel() for site in self.sites)

    @property
    def complete(self) -> bool:
        """Whether hardening at this moment would give all the zeros that were asked for."""
        return self._masks.complete

    @contextmanager
    def hardened(self, other: nn.Module | None = None) -> Iterator[nn.Module]:
        """Inside, the model's weights are the exact hard ones of this moment; afterwards all is as before.

        What is evaluated, saved or copied inside is what `finalize` would ship now; `state_dict()` of the pruner then
        carries the dense weights along, so that the same files can be resumed from.

        Args:
            other: a copy of the model, such as its EMA, to be hardened in its place by the same masks.
        """
        if other is not None:
            with find(other, self._masks).for_a_while() as module:
                yield module
            return
        refuse_replaced(self._bare, self.sites)
        self._go_on()
        try:
            self.held.harden()
            yield self.model
        finally:
            self.held.restore()
            self.plan.looked_at()

    def soft_masks(self) -> dict[str, SoftMask]:
        """The masks by weight name as plain numbers; of the final budget, whatever the ramp has reached.

        From numbers alone every weight zeroes its own smallest units. Where that is not what was chosen (methods that
        keep by something else than size, coupled channels) the zeros become exact here.
        """
        with self._masks.whole():
            return self._masks.soft_masks()

    @eagerly
    def finalize(self, *, on_unfinished: OnUnfinished = "warn") -> Finalized:
        """Exactly the budgeted zeros, written into the model's own weights; the hooks are gone.

        Averages of the model that were made by deep copy since `prepare` (EMA, SWA) are hardened by the same masks. If
        hardened weights of an earlier moment were loaded, these are what stays. Called again, it puts the zeros back.

        Args:
            on_unfinished: where fewer steps were taken than planned: "warn", "raise", or "finish", which takes the
                missing ones by the pruner's `loss` and `optimizer`, and warns where it has not both.

        Returns:
            The hardened model with its masks; it can be called as the module can.

        Raises:
            UsageError: the plan was not met, and that is not to be; or a pruned layer is no longer the model's.
        """
        if on_unfinished not in ("warn", "raise", "finish"):
            raise UsageError(f"on_unfinished is {on_unfinished!r}", way_out='give "warn", "raise" or "finish"')
        self._refuse_inside_hardened("finalize()")
        self.prepare()
        self._go_on()
        refuse_replaced(self._bare, self.sites)
        if not self._finalized:
            if on_unfinished == "finish":
                self.plan.train_on(self.model, self._masks.surroundings.loss, self.step)
            if (not self.plan.written() or self.plan.measured()) and self.held.rest():
                self.plan.settled()
            missed = self.plan.unfinished(self.schedule.phase(self.steps), self._masks.zeros, self._masks.target)
            if missed:
                self.plan.meet(on_unfinished, missed)
        return self._harden()

    def apply_to(self, other: Any) -> Any:
        """Harden a copy of the model by the same masks: an EMA, an SWA model, the best so far.

        Args:
            other: a module of the same architecture, bare or in AveragedModel, DistributedDataParallel, `torch.compile`
                or timm's ModelEma, whose weights are written to; or a state dict, which is left as it is.

        Returns:
            The hardened copy, as `finalize` returns the model, ready to be saved or exported; or a new state dict.

        Raises:
            UsageError: it is no copy of the model.
        """
        if not self._masks.complete:
            warn(
                f"the masks of step {self.steps} of {self.plan.total} give {self._masks.zeros:,} zeros, not the "
                f"{self._masks.target:,} that were asked for",
                "call apply_to() after finalize(); hardened(other) is for a look on the way",
            )
        with self._masks.whole():
            return find(other, self._masks).harden(self.recipe)

    def shipped(self) -> list[tuple[list[str], Callable[[Tensor], Tensor]]]:
        """Names of each weight in the model's state dict, and what hardening at this moment makes of its value."""
        with torch.no_grad(), self._masks.whole():
            return self._masks.shipped(self.held.weights)

    def detach(self) -> nn.Module:
        """Take the masks off again and return the model with its dense weights as they are."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            forget_compiled()
        self._handles, self._begun = [], self._finalized
        self.plan.close()
        return self.model

    def state_dict(self, *, dense: bool = False) -> dict[str, Any]:
        """What resuming needs besides the model's own state: plain values and tensors.

        Args:
            dense: hold the weights that are still soft, too, because the model's state is saved hardened. Inside
                `hardened` that goes by itself.
        """
        soft = {site: site.live().detach() for site in self.sites if dense and site.mask is None and site.zeros}
        state = {
            "steps": self.steps,
            "settings": settings(self.recipe),
            "pace": asdict(self.pace),
            "schedule": asdict(self.schedule),
            "target": self._masks.target,
            "sites": self._masks.state(self.held.weights),
            "others": others(self._masks),
        }
        held: dict[Any, Tensor] = {**soft, **self.held.weights, **self.held.followers}
        if soft:
            held |= {one: one.parameter.detach() for one in self._masks.followers}
        return {**state, "dense": {one.name: value for one, value in held.items()}} if held else state

    @eagerly
    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], *, left: float | None = None) -> None:
        """Continue where `state_dict` was taken, beside the model's own state; best before `prepare`.

        The schedule comes along: by its weights alone a model that was stopped half-way looks trained. With another
        number of epochs or steps an epoch its rest is stretched over those to come: `left` optimizer steps, or what
        the epochs that are not done take.

        Raises:
            UsageError: the state is of another model or other settings, or nothing would be left to train.
        """
        refuse_other(state, self.recipe, self.sites)
        self.method.schedule, self.pace = resumed(state, self.pace, self.schedule.per_stage, left)
        self.steps = state["steps"]
        self._masks.load(state["sites"], state.get("dense", {}))
        self._beside = Beside(self._masks, state)
        self.plan.total = self.schedule.total
        self.plan.furthest = max(self.plan.furthest, self.steps)
        self.plan.settled()

    def __reduce__(self) -> tuple[Any, ...]:
        return PrunerCopy, ()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────
    @torch.no_grad()
    def _harden(self) -> Finalized:
        with self._masks.whole():
            say_written(self._masks, self.plan, self.steps)
            self._masks.freeze()
            masks = {}
            for site in self.sites:
                mask = cast(Tensor, site.mask)
                site.weight.copy_(torch.where(mask, site.weight, torch.zeros_like(site.weight)))  # without −0.0
                masks[site.name] = mask.detach().clone()
        self._finalized = True
        self.detach()
        say_unpruned(self._bare, self._known)
        self.plan.settled()
        harden_averages(self._masks)
        return Finalized(self._bare, masks, self.recipe)

    def _follow(self, optimizer: Any) -> None:
        """Settings that were not given, by the first optimizer that is seen to train the weights."""
        if self._optimizer is None and trains(optimizer, self.sites):
            self._optimizer = optimizer
            usual, given = defaults_of(self.recipe, optimizer), self.recipe.options
            self.method.settings |= {name: value for name, value in usual.items() if name not in given}

    def _go_on(self, *, look: bool = True) -> None:
        """From here on the weights are those of this training, whatever states were loaded."""
        if self._beside is not None:
            self._beside.close(look=look)
            self._beside = None

    def _refuse_inside_hardened(self, call: str) -> None:
        if self.held.weights:
            raise UsageError(f"{call} inside hardened()", way_out="leave its with block first")
