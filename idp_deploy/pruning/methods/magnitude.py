"""Pruning by size alone: gradually, or once."""

from __future__ import annotations

import torch
from torch import Tensor

from idp_deploy.pruning.methods.base import Method
from idp_deploy.pruning.sites import Site


class GMP(Method):
    """Gradual magnitude pruning: sparsity s_f·(1 − (1 − progress)³), the smallest |w| masked, no gradient to them.

    Source: Zhu & Gupta 2018, arXiv 1710.01878. With `forget` a masked weight is set to zero for good; without it the
    weight keeps its value behind the mask and returns when others have become smaller.
    """

    options = {"forget": True}  # noqa: RUF012

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        mask = site.magnitude_mask()
        site.state["mask"] = mask
        if self.settings["forget"]:
            site.weight.mul_(mask)
        site.masked = self.masked


class Magnitude(Method):
    """One-shot magnitude: at the first pruning step the smallest |w| go, the rest trains on that mask."""

    def update(self, site: Site, step: int) -> None:
        if "mask" not in site.state:
            site.state["mask"] = site.magnitude_mask(site.budget)
        site.zeros = site.budget
        site.masked = self.masked

    def hard_mask(self, site: Site) -> Tensor:
        return site.state["mask"] if "mask" in site.state else site.magnitude_mask()
