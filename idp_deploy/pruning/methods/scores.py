"""Masks by learned scores: S follows −∂L/∂S = −(∂L/∂ŵ)·w, the largest S are kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from idp_deploy.masks import Block
from idp_deploy.pruning.methods.base import Forward, Method, take_seen, watched
from idp_deploy.pruning.schedule import Shape
from idp_deploy.pruning.sites import Site


class Movement(Method):
    """Movement pruning: scores start at 0, the mask is the top-k of S, straight-through ∂L/∂S = (∂L/∂ŵ)·w.

    Source: Sanh et al. 2020, arXiv 2005.07683. S is learned by SGD with `score_rate` and momentum; with `scope` =
    "global" all scores are ranked together, which is what the paper's soft variant (one sigmoid threshold for all
    layers) amounts to at a given sparsity.
    """

    name = "movement"
    options = {"score_rate": 1.0, "momentum": 0.9, "scope": "layer"}  # noqa: RUF012
    keep: Literal["masked", "none"] = "masked"

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        state = site.state
        if "score" not in state:
            state["score"] = self.first(site)
            state["speed"] = torch.zeros_like(site.weight)
        seen = take_seen(site)
        if seen is not None:
            state["speed"].mul_(self.settings["momentum"]).add_(seen)
            state["score"].sub_(state["speed"], alpha=self.settings["score_rate"])
        state["mask"] = self.hard_mask(site)

    def forward(self, site: Site) -> Forward | None:
        return partial(watched, keep=self.keep, scored=True) if "mask" in site.state else None

    def after(self, step: int) -> None:
        if self.settings.get("scope") == "global":
            self.settle()
            for site in self.sites:
                site.state["mask"] = self.hard_mask(site)

    @torch.no_grad()
    def settle(self) -> None:
        if self.settings.get("scope") != "global" or any("score" not in site.state for site in self.sites):
            return
        share_by_rank(self.sites, [site.state["score"] for site in self.sites])

    def first(self, site: Site) -> Tensor:
        """Scores before training."""
        return torch.zeros_like(site.weight)

    def hard_mask(self, site: Site) -> Tensor:
        return site.mask_by(site.state["score"]) if "score" in site.state else site.magnitude_mask()


class LagunasBlock(Movement):
    """Block movement pruning: the entries of a block share one score, whose gradient is the sum of theirs.

    Source: Lagunas et al. 2021, arXiv 2109.04838.
    """

    name = "lagunas-block"
    options = {"score_rate": 1.0, "momentum": 0.9}  # noqa: RUF012
    pattern = Block


class OptG(Movement):
    """Gradient-driven criteria: as movement with scores q that start at |w|, and a sigmoid-shaped ramp.

    Source: Zhang et al. 2022, arXiv 2201.12826: ∂L/∂q = (∂L/∂ŵ)·w by straight-through, mask = top-k of q, rate
    P/(1 + exp(−k(e − e₀))). The start at |w|, which makes the first mask that of magnitude pruning, is our choice.
    """

    name = "optg"
    options = {"score_rate": 1.0, "momentum": 0.9}  # noqa: RUF012
    ramp: ClassVar[Shape] = "sigmoid"

    def first(self, site: Site) -> Tensor:
        return site.weight.detach().abs()


class Supermask(OptG):
    """A subnetwork of weights that never move: only the scores learn.

    Source: Zhou et al. 2019, arXiv 1905.01067. The mask is the top-k of the scores at every step where the paper draws
    it from a Bernoulli distribution, so that the sparsity is exact throughout.
    """

    name = "supermask"
    trains = False
    ramp: ClassVar[Shape] = "none"
    keep = "none"

    def update(self, site: Site, step: int) -> None:
        super().update(site, step)
        site.still = True


def share_by_rank(sites: Sequence[Site], entry_scores: list[Tensor]) -> None:
    """Set `site.zeros`, keeping their sum, by one ranking of all units; each site keeps its best 0.1 %."""
    total = sum(site.zeros for site in sites)
    if not total:
        return
    flat = []
    for site, scores in zip(sites, entry_scores, strict=True):
        units = site.pattern.unit_scores(scores, site.where.output_axis).flatten().clone()
        units[units.topk(max(1, units.numel() // 1000)).indices] = torch.inf
        flat.append(units)
    size = [site.pattern.unit(tuple(site.weight.shape), site.where.output_axis) for site in sites]
    owner = torch.cat([torch.full_like(f, i, dtype=torch.long) for i, f in enumerate(flat)])
    sizes = torch.tensor(size, device=owner.device)[owner]
    order = torch.sort(torch.cat(flat), stable=True).indices
    gone = order[sizes[order].cumsum(0) <= total]
    counts = torch.bincount(owner[gone], minlength=len(flat))
    for site, count, unit in zip(sites, counts.tolist(), size, strict=True):
        site.zeros = count * unit
