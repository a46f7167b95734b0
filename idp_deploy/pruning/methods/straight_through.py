"""Hard masks whose hidden weights learn as if they were not masked."""

from __future__ import annotations

from functools import partial

import torch

from idp_deploy.masks import NM
from idp_deploy.pruning.methods.base import Forward, Method, watched
from idp_deploy.pruning.sites import Site


class TopK(Method):
    """Control: the top |w| by a hard mask, ∂L/∂w := ∂L/∂ŵ (straight-through; Bengio et al. 2013, arXiv 1308.3432)."""

    name = "topk-ste"
    by_size = True

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        site.state.pop("seen", None)
        site.state["mask"] = site.magnitude_mask()

    def forward(self, site: Site) -> Forward | None:
        return partial(watched, keep="dense", pull=self.settings.get("pull", 0.0)) if "mask" in site.state else None


class SRSTE(TopK):
    """Sparse-refined straight-through for N:M: ∂L/∂w := ∂L/∂ŵ + λ·(1 − mask)·w, with λ = `pull`.

    Source: Zhou et al. 2021, arXiv 2102.04010, with λ = 2e-4. The full N:M mask holds from the first step.
    """

    name = "sr-ste"
    options = {"pull": 2e-4}  # noqa: RUF012
    ramp = "none"
    pattern = NM
