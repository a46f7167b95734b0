"""STR: a learned threshold a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from idp_deploy.masks import Pattern
from idp_deploy.pruning.methods.base import Forward, Method
from idp_deploy.pruning.sites import Site


class STR(Method):
    """Soft threshold reparameterisation: ŵ = sign(w)·relu(|w| − σ(s_l + b)), s_l learned with weight decay.

    Source: Kusupati et al. 2020, arXiv 2002.03231. There the weight decay alone decides where the sparsity ends up and
    is searched for by bisection over whole runs; here b, common to all layers, is solved for after every step so that
    the scheduled number of zeros holds. How the zeros are shared among layers is learned, as in the paper.
    """

    name = "str"
    pattern = Pattern
    options = {"threshold_rate": 0.05, "decay": 5e-4, "start": -5.0}  # noqa: RUF012

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        state = site.state
        if "s" not in state:
            state["s"] = torch.full((), self.settings["start"], device=site.weight.device)
            state["b"] = torch.full((), -30.0, device=site.weight.device)
        s = state["s"]
        if s.grad is not None:
            gradient = s.grad + self.settings["decay"] * s
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(gradient)
                gradient /= torch.distributed.get_world_size()
            s.sub_(gradient, alpha=self.settings["threshold_rate"])
            s.grad = None
        s.requires_grad_(True)

    def forward(self, site: Site) -> Forward | None:
        return _shrunk if "s" in site.state else None

    @torch.no_grad()
    def after(self, step: int) -> None:
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """b such that the total is right: it is the k-th smallest logit(|w|) − s_l over all layers."""
        if any("s" not in site.state for site in self.sites):
            return
        total = sum(site.zeros for site in self.sites)
        if not total:
            return
        margins = [self.margin(site).flatten() for site in self.sites]
        for margin in margins:
            margin[margin.argmax()] = torch.inf
        together = torch.cat(margins)
        order = torch.sort(together, stable=True).indices
        owner = torch.cat([torch.full_like(m, i, dtype=torch.long) for i, m in enumerate(margins)])
        counts = torch.bincount(owner[order[:total]], minlength=len(margins)).tolist()
        for site, count in zip(self.sites, counts, strict=True):
            site.zeros = count
            site.state["b"].copy_(together[order[total - 1]])

    def margin(self, site: Site) -> Tensor:
        """The b at which an entry is cut off."""
        w = site.weight.detach().abs().double()
        return torch.logit(w.clamp(1e-12, 1 - 1e-12)) - site.state["s"].detach().double()

    def hard_mask(self, site: Site) -> Tensor:
        if "s" not in site.state:
            return site.magnitude_mask()
        return site.pattern.mask_by(self.margin(site), tuple(site.weight.shape), site.zeros)

    def baked(self, site: Site) -> Tensor | None:
        return _shrunk(site, site.weight.detach()).detach() if "s" in site.state else None


def _shrunk(site: Site, w: Tensor) -> Tensor:
    threshold = torch.sigmoid(site.state["s"] + site.state["b"])
    return torch.sign(w) * torch.relu(w.abs() - threshold)
