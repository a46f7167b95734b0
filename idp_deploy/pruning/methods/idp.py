"""IDP: differentiable pruning by a parameter-free soft mask."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from idp_deploy.masks import SMALLEST_TEMPERATURE, apply_soft_mask, soft_mask
from idp_deploy.pruning.methods.base import Forward, Method
from idp_deploy.pruning.sites import Site


class IDP(Method):
    """ŵ = sigmoid((w² − t²)/τ)·w with t recomputed after every step; w stays dense and can come back.

    Source: the IDP paper (ICLR 2023 submission); its successor PDP, arXiv 2305.11203.

    `temperature` is τ, or None for τ = t²/κ a layer with κ = `kappa`: a fixed τ is soft only where t happens to be near
    √τ. κ may move from `kappa` to `kappa_end` over the ramp, geometrically. The derivative m + (2w²/τ)·m·(1 − m) is
    bounded by 1 with `clip` and from below by `floor`, which lets pruned weights go on learning; neither touches the
    forward. The `Pruner` leaves `clip` out where it knows that the optimizer divides by the size of each entry's own
    gradients: a bound keeps SGD from overshooting at the threshold, and only takes information from Adam. `detach`
    drops its second term altogether (a control). m follows w at every step; t is found anew every `refresh` steps,
    layer by layer in turn, and whenever the ramp has moved by 0.1 % of a layer.
    """

    name = "idp"
    by_size = True
    options = {  # noqa: RUF012
        "temperature": None,
        "kappa": 10.0,
        "kappa_end": None,
        "clip": True,
        "floor": 0.5,
        "detach": False,
        "refresh": 8,
    }

    def update(self, site: Site, step: int) -> None:
        if site.zeros == 0:
            site.state.clear()
            return
        if not self.due(site, step):
            return
        site.state["zeros"] = site.zeros
        t = site.threshold()
        tau = self.temperature(t, step)
        if "t" in site.state and site.state["t"].shape == t.shape:
            # the same tensors, so that a compiled forward need not be compiled again
            site.state["t"].copy_(t)
            site.state["tau"].copy_(tau)
        else:
            site.state["t"], site.state["tau"] = t.clone(), tau.clone()
        elsewhere = site.elsewhere()
        if elsewhere is not None:
            site.state["elsewhere"] = elsewhere

    def forward(self, site: Site) -> Forward | None:
        if "t" not in site.state:
            return None
        return partial(_soft, **{name: self.settings[name] for name in ("clip", "floor", "detach")})

    def due(self, site: Site, step: int) -> bool:
        """Whether t is looked up again: layers take turns, and none waits while its ramp moves on."""
        waiting = abs(site.zeros - site.state.get("zeros", 0)) * 1000 < site.weight.numel()
        turn = (step + self.order[site.name]) % int(self.settings["refresh"]) == 0
        return turn or not waiting or "t" not in site.state

    def temperature(self, t: Tensor, step: int) -> Tensor:
        """τ for threshold t."""
        if self.settings["temperature"] is not None:
            return torch.full_like(t, self.settings["temperature"])
        kappa, end = self.settings["kappa"], self.settings["kappa_end"]
        if end is not None:
            span = max(self.schedule.frozen_from - self.schedule.dense_until, 1)
            kappa *= (end / kappa) ** min(1.0, (step - self.schedule.dense_until) / span)
        return (t * t / kappa).clamp_min(SMALLEST_TEMPERATURE)


def _soft(site: Site, w: Tensor, *, clip: bool, floor: float, detach: bool) -> Tensor:
    axis, pattern, t, tau = site.where.output_axis, site.pattern, site.state["t"], site.state["tau"]
    units = pattern.to_units(w, axis)
    if detach:
        scores = units.detach().square().mean(-1, keepdim=True).sqrt() if pattern.shared else units.detach()
        soft = units * soft_mask(scores, t, tau).to(w.dtype)
    else:
        elsewhere = site.state.get("elsewhere")
        soft = apply_soft_mask(units, t, tau, clip=clip, floor=floor, shared=pattern.shared, elsewhere=elsewhere)
    return pattern.from_units(soft, tuple(w.shape), axis)
