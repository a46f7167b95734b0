"""Methods that go back and forth: dense and compressed phases, and rewinding to the start."""

from __future__ import annotations

import torch

from idp_deploy.pruning.methods.base import Method, Surroundings
from idp_deploy.pruning.sites import Site


class ACDC(Method):
    """Alternating compressed / decompressed training: phases of equal length, top-k |w| in the compressed ones.

    Source: Peste et al. 2021, arXiv 2106.12379. The mask is chosen where a compressed phase begins and pruned weights
    start the next dense phase from zero. The run ends compressed.
    """

    name = "acdc"
    options = {"phases": 6}  # noqa: RUF012
    ramp = "none"

    def compressed(self, step: int) -> bool:
        """Whether `step` belongs to a compressed phase; the last one before the finish is dense, which precedes it."""
        span = max(self.schedule.frozen_from - self.schedule.dense_until, 1)
        phase = int((step - self.schedule.dense_until) * self.settings["phases"] / span)
        return phase % 2 == 1

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        if not self.compressed(step):
            site.state.pop("mask", None)
            site.zeros = 0
            return
        if "mask" not in site.state:
            site.state["mask"] = site.magnitude_mask()
        site.weight.mul_(site.state["mask"])


class Lottery(Method):
    """Lottery ticket: train, prune by size, rewind what is left to its first values, and again; the last ticket trains.

    Source: Frankle & Carbin 2019, arXiv 1803.03635; iterative, keeping (1 − s)^(i/rounds) after round i. `rewind` is
    the share of the run after which the values to return to are taken (0: before training; later rewinding as in
    Frankle et al. 2020, arXiv 1912.05671).
    """

    name = "lottery"
    options = {"rounds": 3, "rewind": 0.0}  # noqa: RUF012
    ramp = "none"

    def begin(self, surroundings: Surroundings) -> None:
        self.module = surroundings.module

    def round(self, step: int) -> int:
        """How many rounds of pruning are behind at `step`."""
        span = max(self.schedule.frozen_from - self.schedule.dense_until, 1)
        rounds = int(self.settings["rounds"])
        return min(rounds, int((step - self.schedule.dense_until) * (rounds + 1) / (span + 1)))

    @torch.no_grad()
    def update(self, site: Site, step: int) -> None:
        state, rounds = site.state, int(self.settings["rounds"])
        if "first" not in state and step >= self.settings["rewind"] * self.schedule.total:
            state["first"] = site.weight.detach().clone()
        done = self.round(step)
        unit = site.pattern.unit(tuple(site.weight.shape), site.where.output_axis)
        kept = (1 - site.budget / site.weight.numel()) ** (done / rounds)
        site.zeros = site.budget if done == rounds else round((1 - kept) * site.weight.numel() / unit) * unit
        if done > state.get("round", 0):
            state["mask"], state["round"] = site.magnitude_mask(), done
            site.weight.copy_(state.get("first", site.weight) * state["mask"])
        if "mask" in state:
            site.weight.mul_(state["mask"])
