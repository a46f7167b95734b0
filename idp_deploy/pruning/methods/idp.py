"""IDP: differentiable pruning by a parameter-free soft mask."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from idp_deploy.masks import SMALLEST_TEMPERATURE, apply_soft_mask, as_numbers, soft_mask
from idp_deploy.pruning.methods.base import Forward, Method
from idp_deploy.pruning.sites import Site

SMALL = 1 << 16  # entries of a weight whose t is found anew at every step: that costs nothing next to the step itself
GATED = 1000.0  # κ behind norms: what is half open there would shut at once when the mask freezes


class IDP(Method):
    """ŵ = sigmoid((w² − t²)/τ)·w with t recomputed after every step; w stays dense and can come back.

    Source: the IDP paper (ICLR 2023 submission); its successor PDP, arXiv 2305.11203.

    `temperature` is τ, or None for τ = t²/κ a layer with κ = `kappa`: a fixed τ is soft only where t happens to be near
    √τ. κ may move from `kappa` to `kappa_end` over the ramp, geometrically. The derivative m + (2w²/τ)·m·(1 − m) is
    bounded by 1 with `clip` and from below by a floor, which lets pruned weights go on learning while the mask is being
    chosen: it falls evenly from `floor` where the ramp begins to `floor_end` where the mask is frozen. Neither touches
    the forward. Where the `Pruner` knows that the optimizer divides by the size of each entry's own gradients, it sets
    κ = 100 and a floor of 1 throughout: a bound keeps SGD from overshooting at the threshold, and from Adam it takes
    what pushes weights off it, so that they would gather where the mask has not decided. With a derivative of 1 they do
    not. `detach` drops the second term altogether (a control). m follows w at every
    step; t is found anew every `refresh` steps, layer by layer in turn, and whenever the ramp has moved by 0.1 % of a
    layer; without `refresh` at every step for weights of up to 65,536 entries, and every eight steps for larger ones,
    where looking would cost time. With `rows` single entries that are the best of their row are kept in full, as the
    hard mask will keep them, and t is counted among the others: it matters where few entries a row are kept, of
    depthwise kernels before all, and changes nothing where t alone keeps some of every row. With `gates` the mask of
    coupled channels multiplies what follows them, as a constant (`idp_deploy/pruning/gates.py`); where norms follow, it
    does nothing else, and κ is 1000 at least.
    """

    name = "idp"
    by_size = True
    options = {  # noqa: RUF012
        "temperature": None,
        "kappa": 10.0,
        "kappa_end": None,
        "clip": True,
        "floor": 1.0,
        "floor_end": 0.0,
        "detach": False,
        "refresh": None,
        "rows": True,
        "gates": True,
    }

    def update(self, site: Site, step: int) -> None:
        if site.zeros == 0:
            site.state.clear()
            return
        floor = self.floor(step)
        _keep(site, "floor", torch.tensor(floor, device=site.weight.device))
        if self.due(site, step):
            self._look(site, step, floor)
        elif "numbers" in site.state:
            site.state["numbers"] = (*site.state["numbers"][:2], floor)
        if self.settings["gates"] and site.peers[:1] == (site,):  # it speaks for its peers
            _keep(site, "gate", soft_mask(site.sizes(), site.state["t"], site.state["tau"]))

    def _look(self, site: Site, step: int, floor: float) -> None:
        """Find t and τ anew."""
        site.state["zeros"] = site.zeros
        if self.settings["rows"] and site.pattern.single:
            rows, t = site.rows_and_threshold()
            _keep(site, "rows", rows)
        else:
            t = site.threshold()
        tau = self.temperature(t, step)
        if self._gated(site):
            tau = torch.minimum(tau, (t * t / GATED).clamp_min(SMALLEST_TEMPERATURE))
        _keep(site, "t", t)
        _keep(site, "tau", tau)
        if site.pattern.single and t.device.type == "cpu":
            site.state["numbers"] = as_numbers(t, tau, floor)
        elsewhere = None if self._gated(site) else site.elsewhere()
        if elsewhere is not None:
            site.state["elsewhere"] = elsewhere

    def _gated(self, site: Site) -> bool:
        """Whether the mask acts behind norms alone."""
        return bool(self.settings["gates"]) and site.normed

    def forward(self, site: Site) -> Forward | None:
        if "t" not in site.state or self._gated(site):
            return None
        return partial(_soft, **{name: self.settings[name] for name in ("clip", "detach")})

    def due(self, site: Site, step: int) -> bool:
        """Whether t is looked up again: layers take turns, and none waits while its ramp moves on."""
        waiting = abs(site.zeros - site.state.get("zeros", 0)) * 1000 < site.weight.numel()
        every = self.settings["refresh"] or (1 if site.weight.numel() <= SMALL else 8)
        turn = (step + self.order[site.name]) % int(every) == 0
        return turn or not waiting or "t" not in site.state

    def temperature(self, t: Tensor, step: int) -> Tensor:
        """τ for threshold t."""
        if self.settings["temperature"] is not None:
            return torch.full_like(t, self.settings["temperature"])
        kappa, end = self.settings["kappa"], self.settings["kappa_end"]
        if end is not None:
            kappa *= (end / kappa) ** self.progress(step)
        return (t * t / kappa).clamp_min(SMALLEST_TEMPERATURE)

    def floor(self, step: int) -> float:
        """The least derivative at `step`."""
        start, end = self.settings["floor"], self.settings["floor_end"]
        return float(start if end is None else start + (end - start) * self.progress(step))

    def progress(self, step: int) -> float:
        """From 0 where the ramp begins to 1 where the mask is frozen."""
        span = max(self.schedule.frozen_from - self.schedule.dense_until, 1)
        return min(1.0, (step - self.schedule.dense_until) / span)


def _keep(site: Site, name: str, value: Tensor) -> None:
    """Into the state, in the same tensor where there is one, so that a compiled forward need not be compiled again."""
    there = site.state.get(name)
    if there is not None and there.shape == value.shape:
        there.copy_(value)
    else:
        site.state[name] = value.clone()


def _soft(site: Site, w: Tensor, *, clip: bool, detach: bool) -> Tensor:
    axis, pattern, t, tau = site.where.output_axis, site.pattern, site.state["t"], site.state["tau"]
    floor, full = site.state["floor"], site.state.get("rows")
    units = pattern.to_units(w, axis)
    if detach:
        scores = units.detach().square().mean(-1, keepdim=True).sqrt() if pattern.shared else units.detach()
        m = soft_mask(scores, t, tau).to(w.dtype)
        soft = units * (m if full is None else m.index_put_(tuple(full), m.new_ones(())))
    else:
        elsewhere = site.state.get("elsewhere")
        # as numbers they are no part of a compiled forward, which would have to be compiled for each
        numbers = None if torch.compiler.is_compiling() else site.state.get("numbers")
        soft = apply_soft_mask(
            units, t, tau, clip=clip, floor=floor, shared=pattern.shared, elsewhere=elsewhere, full=full,
            numbers=numbers,
        )  # fmt: skip
    return pattern.from_units(soft, tuple(w.shape), axis)
