"""Masks that give up small weights and grow others where the dense gradient is large."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from idp_deploy.pruning.methods.base import Forward, Method, take_seen, watched
from idp_deploy.pruning.sites import Site


class _Regrowth(Method):
    options = {"interval": None, "drop": 0.3}  # noqa: RUF012

    def forward(self, site: Site) -> Forward | None:
        return watched if "mask" in site.state else None

    def interval(self) -> int:
        """Steps between two regrowths; a hundredth of the run by default."""
        return int(self.settings["interval"] or max(1, self.schedule.total // 100))

    def share(self, step: int) -> float:
        """Of the kept weights, how many are exchanged: `drop`, falling to 0 along half a cosine."""
        progress = min(1.0, step / max(self.schedule.frozen_from, 1))
        return float(self.settings["drop"]) / 2 * (1 + math.cos(math.pi * progress))

    def exchange(self, site: Site, gradient: Tensor | None, step: int) -> Tensor:
        """Mask after dropping the smallest kept |w| and growing as many of the largest |gradient|; grown start at 0.

        Among peers the first one decides.
        """
        mask: Tensor = site.state["mask"]
        if site.led:
            return site.mask_by(mask)
        assert gradient is not None
        axis, pattern, shape = site.where.output_axis, site.pattern, tuple(site.weight.shape)
        unit = pattern.unit(shape, axis)
        kept = mask.numel() - site.zeros
        moved = min(int(self.share(step) * kept / unit) * unit, site.zeros)
        if not moved:
            return mask
        alive = pattern.unit_scores(mask.float(), axis) > 0
        size = torch.where(alive, pattern.scores(site.weight, axis), -1.0)
        stay = pattern.mask_by(size, shape, site.zeros + moved, axis)
        staying = pattern.unit_scores(stay.float(), axis) > 0
        growth = pattern.unit_scores(gradient.abs(), axis)
        # what stays outranks all, what was just dropped comes last
        growth = torch.where(staying, torch.inf, torch.where(alive, -1.0, growth))
        return pattern.mask_by(growth, shape, site.zeros, axis)


class GraNet(_Regrowth):
    """GMP plus zero-cost regrowth: every ΔT steps a further share of the smallest kept weights is dropped and as many
    of the largest dense gradient are grown.

    Source: Liu et al. 2021, arXiv 2106.10404.
    """

    name = "granet"

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        gradient = take_seen(site)
        site.state["mask"] = site.magnitude_mask()
        if site.led or (gradient is not None and step % self.interval() == 0):
            site.state["mask"] = self.exchange(site, gradient, step)
        site.weight.mul_(site.state["mask"])


class RigL(_Regrowth):
    """Fixed sparsity from a random start: every ΔT steps the smallest |w| go and the largest |∂L/∂ŵ| grow from zero.

    Source: Evci et al. 2020, arXiv 1911.11134; α = `drop` = 0.3 with cosine decay. `start` = "magnitude" keeps the
    large weights of a trained model instead of drawing the first mask.
    """

    name = "rigl"
    options = {"interval": None, "drop": 0.3, "start": "random"}  # noqa: RUF012
    ramp = "none"

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        gradient = take_seen(site)
        if "mask" not in site.state:
            site.state["mask"] = self.first(site)
        elif site.led or (gradient is not None and step % self.interval() == 0):
            site.state["mask"] = self.exchange(site, gradient, step)
        site.weight.mul_(site.state["mask"])

    def first(self, site: Site) -> Tensor:
        """The mask to start from."""
        if self.settings["start"] == "magnitude":
            return site.magnitude_mask()
        generator = torch.Generator().manual_seed(self.seed * 1009 + self.order[site.name])
        return site.mask_by(torch.rand(site.weight.shape, generator=generator).to(site.weight.device))
