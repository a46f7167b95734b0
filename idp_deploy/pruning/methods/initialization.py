"""Masks chosen before training, from the network alone or from one look at the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError
from idp_deploy.pruning.methods.base import Surroundings
from idp_deploy.pruning.methods.magnitude import Magnitude
from idp_deploy.pruning.sites import Site


class _AtStart(Magnitude):
    """Chooses every mask once, before training, from what `needs` names: (attribute, what is looked at, argument)."""

    ramp = "none"
    needs: tuple[str, str, str]
    shardable = False

    def begin(self, surroundings: Surroundings) -> None:
        attribute, looked_at, argument = self.needs
        if getattr(surroundings, attribute) is None:
            raise UsageError(
                f"method {self.name} looks at {looked_at} before training",
                way_out=f"give the pruner {argument}, or use `prune` with a task",
            )
        self.surroundings = surroundings

    def update(self, site: Site, step: int) -> None:
        if "mask" not in site.state:
            self.choose()
        site.zeros = site.budget

    def choose(self) -> None:
        """Put a mask into the state of every site."""
        raise NotImplementedError


class SynFlow(_AtStart):
    """Iterative synaptic flow: R = 1ᵀ·Π|W|·1 through the network, score |∂R/∂|w| · w|, `rounds` exponential rounds.

    Source: Tanaka et al. 2020, arXiv 2006.05467. No data: the input is all ones, and batch norm passes values through
    as its eval mode does, with |γ|. Within the layer budgets of the chosen allocation.
    """

    name = "synflow"
    needs = ("example_inputs", "the network", "example_inputs=(x,)")
    options = {"rounds": 20}  # noqa: RUF012

    def choose(self) -> None:
        """Masks of all sites together: flow through one layer depends on the others' masks."""
        rounds = int(self.settings["rounds"])
        masks = [torch.ones_like(site.weight, dtype=torch.bool) for site in self.sites]
        with _positive(self.surroundings.module) as module:
            for i in range(1, rounds + 1):
                scores = self.flow(module, masks)
                for j, (site, score) in enumerate(zip(self.sites, scores, strict=True)):
                    unit = site.pattern.unit(tuple(site.weight.shape), site.where.output_axis)
                    kept = (1 - site.budget / site.weight.numel()) ** (i / rounds)
                    zeros = site.budget if i == rounds else round((1 - kept) * site.weight.numel() / unit) * unit
                    site.zeros = zeros
                    site.state["mask"] = masks[j] = site.mask_by(score)
        for site, mask in zip(self.sites, masks, strict=True):
            site.zeros, site.state["mask"] = site.budget, mask

    def flow(self, module: nn.Module, masks: list[Tensor]) -> list[Tensor]:
        """|w · ∂R/∂w| of every site under the current masks."""
        for site, mask in zip(self.sites, masks, strict=True):
            site.mask = mask
        inputs = tuple(
            torch.ones_like(x[:1]) if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in self.surroundings.example_inputs or ()
        )
        with torch.enable_grad():
            output = module(*inputs)
            total = (output if isinstance(output, Tensor) else next(iter(output))).sum()
            grads = torch.autograd.grad(total, [site.weight for site in self.sites], allow_unused=True)
        for site in self.sites:
            site.mask = None
        return [
            (g * site.weight.detach()).abs() if g is not None else site.weight.detach().abs()
            for site, g in zip(self.sites, grads, strict=True)
        ]


class GraSP(_AtStart):
    """Gradient signal preservation: score −w·(H·g), the largest of which go, on training data before training.

    Source: Wang et al. 2020, arXiv 2002.07376. H·g is the gradient of ½‖g‖² with g = ∂L/∂w.
    """

    name = "grasp"
    needs = ("loss", "training data", "loss=callable")

    def choose(self) -> None:
        """Masks of all sites from one Hessian-gradient product."""
        weights = [site.weight for site in self.sites]
        with torch.enable_grad(), torch.random.fork_rng():
            assert self.surroundings.loss is not None
            grads = torch.autograd.grad(self.surroundings.loss(), weights, create_graph=True)
            products = torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum() / 2, weights)
        for site, product in zip(self.sites, products, strict=True):
            site.zeros = site.budget
            site.state["mask"] = site.mask_by(site.weight.detach() * product)


@contextmanager
def _positive(module: nn.Module) -> Iterator[nn.Module]:
    """The module in double precision and eval mode with |parameter| for every parameter, then as it was."""
    modes = {m: m.training for m in module.modules()}
    kept = {p: p.detach().clone() for p in module.parameters()}
    module.eval()
    try:
        with torch.no_grad():
            for parameter in kept:
                parameter.abs_()
        yield module
    finally:
        with torch.no_grad():
            for parameter, value in kept.items():
                parameter.copy_(value)
        for child, training in modes.items():
            child.training = training
