"""Pruner: pruning in anybody's training loop.

pruner = Pruner(model, sparsity=0.9, epochs=20, steps_per_epoch=len(loader))
model = pruner.prepare()
for batch in loader: ...; loss.backward(); optimizer.step(); optimizer.zero_grad(); pruner.step()
sparse = pruner.finalize()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from idp_deploy.errors import UsageError
from idp_deploy.flow import Recipe, SoftMask
from idp_deploy.masks import NM, SMALLEST_TEMPERATURE, Channel
from idp_deploy.pruning.allocation import ALLOCATIONS, Layer, allocate, usual_allocation
from idp_deploy.pruning.coupling import couple
from idp_deploy.pruning.methods import METHODS, Surroundings
from idp_deploy.pruning.options import SCHEDULE_OPTIONS, SELECTION_OPTIONS, check_options
from idp_deploy.pruning.results import Finalized, PruningReport
from idp_deploy.pruning.schedule import Schedule, auto_schedule, paper_schedule, usual_timing
from idp_deploy.pruning.selecting import select
from idp_deploy.pruning.sharding import refuse_flat, whole
from idp_deploy.pruning.sites import Site, attach

PAPER_TEMPERATURE = 1e-4
# optimizers that divide every entry's step by the size of its own gradients
ADAPTIVE = (
    torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax, torch.optim.Adagrad,
    torch.optim.Adadelta, torch.optim.RMSprop,
)  # fmt: skip
LOOKS = 4  # a step looks for NaN and inf in every fourth weight


class Pruner:
    """Prunes `model` in place while somebody else trains it.

    Args:
        model: any module; its parameters stay where they are, so an optimizer may exist already.
        sparsity: share of zeros over the prunable weights at the end, 0 ≤ sparsity < 1.
        epochs: length of the training to come.
        mode: "auto" (τ = t²/10 a layer, derivative held above 0.5 and below 1, ERK, from 90 % zeros LAMP, an early
            cubic ramp that waits if the model is not trained yet, the last 30 % on the frozen mask) or "paper" (τ =
            1e-4, derivative as derived, global magnitude, slow linear ramp, hardened at the end).
        method: a row of METHODS. pattern: see `parse_pattern`. allocation: a row of ALLOCATIONS, or "auto".
        skip: globs over weight names that stay dense.
        steps_per_epoch: optimizer steps in an epoch; None where `step()` is called once an epoch.
        seed: for methods that draw random numbers.
        example_inputs, loss: one call's arguments, and a function giving the loss of `model` on some training data,
            for the methods that rank weights before training and for allocation by sensitivity.
        optimizer: what trains the weights, where it exists already. With an adaptive one (Adam and its kin) IDP's
            derivative has no upper bound in "auto" mode: its size cancels there, and what it says is worth having.
        options: first, last, depthwise, embeddings, rules (which weights); dense, ramp, finish or, in paper mode,
            start, rate, finish (when); the rest goes to the method.

    Raises:
        UsageError: a setting that cannot be meant, a pattern that does not divide a weight, NaN or inf in a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sparsity: float = 0.9,
        epochs: int = 20,
        mode: str = "auto",
        method: str = "idp",
        pattern: str = "unstructured",
        allocation: str = "auto",
        skip: Sequence[str] = (),
        steps_per_epoch: int | None = None,
        seed: int = 0,
        example_inputs: tuple[Any, ...] | None = None,
        loss: Callable[[], torch.Tensor] | None = None,
        optimizer: Any = None,
        **options: Any,
    ) -> None:
        if not 0 <= sparsity < 1:
            raise UsageError(f"sparsity is {sparsity}", way_out="give a share of zeros, 0 ≤ sparsity < 1, such as 0.9")
        check_options(method, mode, options)
        if allocation != "auto" and allocation not in ALLOCATIONS:
            raise UsageError(f"unknown allocation '{allocation}'", way_out=f"known are auto, {', '.join(ALLOCATIONS)}")
        if epochs < 1 or (steps_per_epoch is not None and steps_per_epoch < 1):
            raise UsageError(f"{epochs} epochs of {steps_per_epoch} steps", way_out="pruning trains: give at least 1")
        refuse_flat(model)
        self.model = model
        self.recipe = Recipe(
            sparsity, method, pattern, mode, allocation, epochs, seed, tuple(skip), dict(sorted(options.items()))
        )
        choice = {k: v for k, v in options.items() if k in SELECTION_OPTIONS}
        if pattern == "channel" and example_inputs is None:
            choice.setdefault("last", False)  # its channels are the model's outputs, as far as one can tell
        selection = select(model, pattern, skip=skip, **choice)
        self.left = dict(selection.left)
        self.sites = [
            Site(name, model.get_submodule(where.places[0].owner), model.get_parameter(name), where, parsed)
            for name, (where, parsed) in selection.chosen.items()
        ]
        self._couple(example_inputs)
        self._check_sparsity()
        usual_one = usual_allocation(mode, sparsity, [site.pattern for site in self.sites])
        self.allocation = usual_one if allocation == "auto" else allocation
        rule = METHODS[method]
        timing = {k: v for k, v in {**rule.timing, **options}.items() if k in SCHEDULE_OPTIONS[mode] and v is not None}
        usual = {} if rule.ramp == "none" else usual_timing(model)  # without a ramp a mask is there from the first step
        self.schedule: Schedule = (
            auto_schedule(epochs * (steps_per_epoch or 1), shape=rule.ramp, **{**usual, **timing})
            if mode == "auto"
            else paper_schedule(epochs, steps_per_epoch or 1, **timing)
        )
        known = (*SELECTION_OPTIONS, *SCHEDULE_OPTIONS[mode])
        own = {key: value for key, value in options.items() if key not in known}
        if method == "idp":
            own = {**_idp_defaults(mode, optimizer), **own}
        self.method = rule(self.sites, self.schedule, seed, own)
        self._surroundings = Surroundings(model, example_inputs, loss)
        self.steps = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._allocated = self._begun = False

    def prepare(self) -> nn.Module:
        """Put soft masks in place of the weights; returns the model, the same object with the same state dict."""
        if not self._begun:
            for site in self.sites:
                self._handles += attach(self.model, site)
            self.method.begin(self._surroundings)
            self._begun = True
            if not self.steps:  # a loaded state says what its step computes
                with self._whole():
                    self._refresh()
        return self.model

    def step(self) -> None:
        """To be called after each `optimizer.step()`: new thresholds, and the ramp moves on.

        Raises:
            UsageError: a weight has become NaN or inf, or is trained but never read through its layer.
        """
        if not self._begun:
            raise UsageError("step() before prepare()", way_out="call model = pruner.prepare() before training")
        if self.steps == 0:
            for site in self.sites:
                if not site.seen and site.live().grad is not None:
                    raise UsageError(
                        f"weight '{site.name}' is trained but not read by the forward of its own layer, so no mask "
                        "reaches it",
                        way_out=f'leave it out with skip = ["{site.name}"]',
                    )
        self.steps += 1
        with self._whole():
            self._refresh()

    def report(self) -> PruningReport:
        """Where pruning stands now."""
        return PruningReport(
            step=self.steps,
            phase=self.schedule.phase(self.steps),
            prunable=sum(site.weight.numel() for site in self.sites),
            of_all=sum(p.numel() for p in self.model.parameters()),
            zeros=sum(site.zeros for site in self.sites),
            target_zeros=sum(site.budget for site in self.sites),
            layers={site.name: (site.zeros, site.weight.numel()) for site in self.sites},
            left=self.left,
        )

    @contextmanager
    def hardened(self) -> Iterator[nn.Module]:
        """Inside, the model computes with the exact hard masks of this moment; afterwards all is as before."""
        soft = [site for site in self.sites if site.mask is None and site.zeros]
        values = {}
        with torch.no_grad(), self._whole():
            for site in soft:
                site.mask, baked = self.method.hard_mask(site), self.method.baked(site)
                if baked is not None:
                    values[site] = site.weight.detach().clone()
                    site.weight.copy_(baked)
        try:
            yield self.model
        finally:
            for site in soft:
                site.mask = None
            with torch.no_grad(), self._whole():
                for site, value in values.items():
                    site.weight.copy_(value)

    def soft_masks(self) -> dict[str, SoftMask]:
        """The masks by weight name as plain numbers; of the final budget, whatever the ramp has reached.

        From numbers alone every weight zeroes its own smallest units. Where that is not what was chosen (methods that
        keep by something else than size, coupled channels) the zeros become exact here.
        """
        with self._whole():
            return self._soft_masks()

    @torch.no_grad()
    def finalize(self) -> Finalized:
        """Exactly the budgeted zeros, written into the model's own weights; the hooks are gone.

        Returns:
            The hardened model with its masks; it can be called as the module can.
        """
        self.prepare()
        masks = {}
        with self._whole():
            self._freeze()
            for site in self.sites:
                assert site.mask is not None
                # a product would leave −0.0
                site.weight.copy_(torch.where(site.mask, site.weight, torch.zeros_like(site.weight)))
                masks[site.name] = site.mask.detach().clone()
        self.detach()
        return Finalized(self.model, masks, self.recipe)

    def detach(self) -> nn.Module:
        """Take the masks off again and return the model with its dense weights as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs besides the model's own state: plain values and tensors."""
        return {
            "steps": self.steps,
            "schedule": asdict(self.schedule),
            "sites": {
                site.name: {
                    "budget": site.budget,
                    "zeros": site.zeros,
                    "mask": site.mask,
                    "still": site.still,
                    "state": dict(site.state),
                }
                for site in self.sites
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, on a model whose own state is loaded already; best before `prepare`.

        The schedule comes along: by its weights alone a model that was stopped half-way looks trained.
        """
        self.steps = state["steps"]
        self.schedule = self.method.schedule = Schedule(**state["schedule"])
        for site in self.sites:
            saved = tree_map_only(torch.Tensor, partial(_beside, site.weight), state["sites"][site.name])
            site.budget, site.zeros, site.mask = saved["budget"], saved["zeros"], saved["mask"]
            site.still, site.state = saved["still"], dict(saved["state"])
            site.masked = self.method.forward(site)
        self._allocated = any(site.budget for site in self.sites)

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _couple(self, example_inputs: tuple[Any, ...] | None) -> None:
        """Channels that are one in the network share their fate; those that cannot be removed stay dense."""
        self.followers: list[tuple[Site, torch.nn.Parameter]] = []
        channelled = {site.name: site for site in self.sites if isinstance(site.pattern, Channel)}
        if not channelled or example_inputs is None:
            return
        for coupled in couple(self.model, example_inputs, channelled):
            peers = tuple(site for name, site in channelled.items() if name in coupled.weights)
            for site in peers:
                site.peers = peers
                if coupled.fixed:
                    self.left[site.name] = coupled.fixed
            if not coupled.fixed:
                self.followers += [(peers[0], self.model.get_parameter(name)) for name in coupled.followers]
        self.sites = [site for site in self.sites if site.name not in self.left]
        if not self.sites:
            raise UsageError("no channel of this model can be removed", way_out="use another pattern than channel")

    def _check_sparsity(self) -> None:
        patterns = {site.pattern for site in self.sites}
        for pattern in patterns:
            if isinstance(pattern, NM) and patterns == {pattern} and self.recipe.sparsity != pattern.sparsity:
                raise UsageError(
                    f"pattern {pattern.name} means a sparsity of {pattern.sparsity}, not {self.recipe.sparsity}",
                    way_out=f"ask for {pattern.sparsity}",
                )

    def _whole(self) -> AbstractContextManager[None]:
        """For as long as `site.weight` has to be all of the weight."""
        unless = "pruning coupled channels" if self.followers else ""
        if not self.method.shardable:
            unless = f"method {self.recipe.method}"
        elif self.allocation == "sensitivity":
            unless = "allocation by sensitivity"
        return whole(self.sites, unless=unless)

    def _soft_masks(self) -> dict[str, SoftMask]:
        self._finish_ramp()
        if not self.method.by_size or any(site.peers for site in self.sites):
            self._freeze()
        masks = {}
        for site in self.sites:
            t, tau = site.state.get("t"), site.state.get("tau")
            if t is None or tau is None or site.mask is not None:
                t, tau = (site.threshold() if site.zeros else torch.zeros(())), torch.tensor(SMALLEST_TEMPERATURE)
            masks[site.name] = SoftMask(float(t.mean()), float(tau.mean()), site.zeros, site.pattern.name)
        return masks

    def _refresh(self) -> None:
        """Bring masks in line with the weights and the step count."""
        # in turn: a NaN anywhere reaches every weight with the next step
        self._refuse_non_finite(self.sites[self.steps % LOOKS :: LOOKS] if self.steps else self.sites)
        phase = self.schedule.phase(self.steps)
        if phase == "dense":
            return
        self._allocate()
        if phase == "frozen":
            self._freeze()
            return
        ratio = self.schedule.ratio(self.steps)
        for site in self.sites:
            unit = site.pattern.unit(tuple(site.weight.shape), site.where.output_axis)
            site.zeros = round(ratio * site.budget / unit) * unit
            self.method.update(site, self.steps)
        self.method.after(self.steps)
        for site in self.sites:
            site.masked = self.method.forward(site)

    def _allocate(self) -> None:
        if self._allocated or self.recipe.sparsity == 0:
            return
        gradients = self._gradients() if self.allocation == "sensitivity" else [None] * len(self.sites)
        layers = [
            Layer(site.name, site.weight.detach(), site.pattern, site.where.output_axis, gradient, site.where.gates)
            for site, gradient in zip(self.sites, gradients, strict=True)
        ]
        budgets = allocate(layers, self.recipe.sparsity, self.allocation)
        for site in self.sites:
            site.budget = budgets[site.name]
        self._allocated = True

    def _gradients(self) -> Sequence[torch.Tensor | None]:
        """Of the loss on calibration data, by site; none where there is no loss. Random state is as before."""
        loss, weights = self._surroundings.loss, [site.weight for site in self.sites]
        if loss is None:
            return [None] * len(weights)
        with torch.enable_grad(), torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)  # every process drops the same units
            return torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)

    def _finish_ramp(self) -> None:
        """Full budgets, wherever training stopped, and the method's last word on them."""
        self._refuse_non_finite(self.sites)
        self._allocate()
        soft = [site for site in self.sites if site.mask is None]
        last = self.schedule.frozen_from
        for site in soft:
            if site.zeros != site.budget:
                site.zeros = site.budget
                self.method.update(site, last)
                site.zeros = site.budget
        if soft:
            self.method.settle()

    @torch.no_grad()
    def _freeze(self) -> None:
        """Zeros in the weights themselves, again after every step: momentum would move them."""
        if any(site.mask is None for site in self.sites):
            self._finish_ramp()
        fresh = {
            site: (self.method.hard_mask(site), self.method.baked(site)) for site in self.sites if site.mask is None
        }
        for site, (mask, baked) in fresh.items():
            if baked is not None:
                site.weight.copy_(baked)
            site.mask, site.budget = mask, site.zeros
            site.state.clear()
        for site in self.sites:
            assert site.mask is not None
            site.weight.mul_(site.mask)
        for site, parameter in self.followers:
            # a norm or bias behind a dead channel would turn it into a constant
            assert site.mask is not None
            axis = site.where.output_axis
            alive = site.mask.movedim(axis, 0).flatten(1).any(1)
            parameter.mul_(alive.reshape(-1, *[1] * (parameter.dim() - 1)))

    def _refuse_non_finite(self, looked_at: Sequence[Site]) -> None:
        totals = [site.weight.detach().sum(dtype=torch.float32) for site in looked_at]
        if not totals or torch.isfinite(torch.stack(totals)).all():
            return
        for site in self.sites:
            bad = int((~torch.isfinite(site.weight.detach())).sum())
            if bad:
                raise UsageError(
                    f"weight '{site.name}' holds {bad} values that are NaN or infinite",
                    way_out="lower the learning rate, or check the checkpoint",
                )


def _idp_defaults(mode: str, optimizer: Any) -> dict[str, Any]:
    if mode == "paper":
        return {"temperature": PAPER_TEMPERATURE, "clip": False, "floor": 0.0, "refresh": 1}
    bare = getattr(optimizer, "optimizer", optimizer)  # accelerate and Lightning wrap it
    return {"clip": False} if isinstance(bare, ADAPTIVE) else {}


def _beside(weight: torch.Tensor, saved: torch.Tensor) -> torch.Tensor:
    return saved.to(weight.device)
