"""Pruning by size alone: gradually, once, by channel; and the random control."""

from __future__ import annotations

import torch
from torch import Tensor

from idp_deploy.masks import Channel
from idp_deploy.pruning.methods.base import Method
from idp_deploy.pruning.sites import Site


class GMP(Method):
    """Gradual magnitude pruning: sparsity s_f·(1 − (1 − progress)³), the smallest |w| masked, no gradient to them.

    Source: Zhu & Gupta 2018, arXiv 1710.01878. With `forget` a masked weight is set to zero for good; without it the
    weight keeps its value behind the mask and returns when others have become smaller.
    """

    name = "gmp"
    by_size = True
    options = {"forget": True}  # noqa: RUF012

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        mask = site.magnitude_mask()
        site.state["mask"] = mask
        if self.settings["forget"]:
            site.weight.mul_(mask)

    def hard_mask(self, site: Site) -> Tensor:
        return site.magnitude_mask()


class POFA(GMP):
    """Prune once for all: gradual magnitude pruning during (pre-)training with distillation from the dense model, then
    the pattern is locked and the second half of the run fine-tunes inside it.

    Source: Zafrir et al. 2021, arXiv 2111.05754.
    """

    name = "pofa"
    timing = {"ramp": 0.4, "finish": 0.5}  # noqa: RUF012
    training = {"distill": 0.5}  # noqa: RUF012


class Magnitude(Method):
    """One-shot magnitude: before the first pruning step the smallest |w| go, the rest trains on that mask."""

    name = "magnitude"

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        if "mask" not in site.state:
            site.zeros = site.budget
            site.state["mask"] = self.rank(site)
        site.zeros = site.budget

    def rank(self, site: Site) -> Tensor:
        """The mask, chosen once."""
        return site.magnitude_mask()


class L1Channel(Magnitude):
    """Output channels with the smallest Σ|w| go at once, then the network is fine-tuned.

    Source: Li et al. 2017, arXiv 1608.08710.
    """

    name = "l1-channel"
    pattern = Channel

    def rank(self, site: Site) -> Tensor:
        return site.mask_by(site.weight.detach().abs())


class Random(Magnitude):
    """Control: a random mask of the same budgets, drawn once from the seed."""

    name = "random"

    def rank(self, site: Site) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1009 + self.order[site.name])
        return site.mask_by(torch.rand(site.weight.shape, generator=generator).to(site.weight.device))
