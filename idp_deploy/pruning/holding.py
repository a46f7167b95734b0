"""Hard weights for a while: what they were before, so that training goes on with it.

An optimizer that trains other weights than it evaluates (schedule-free) rests meanwhile: what is hardened and measured
are the weights of its `eval()`, and where somebody else calls that, or `train()`, in between, nothing moves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idp_deploy.pruning.following import Follower
from idp_deploy.pruning.masking import Hard, Masking
from idp_deploy.pruning.sites import Site


class Holding:
    """The weights of a model in training while exact zeros stand in their place."""

    def __init__(self, masks: Masking, optimizer: Any = None) -> None:
        self.weights: dict[Site, Tensor] = {}  # whose masks are still soft
        self.followers: dict[Follower, Tensor] = {}  # norms and biases behind their dead channels
        self._filled: dict[Site, Tensor] = {}  # whose masks are hard, and whose zeros somebody has written over
        self._hard: dict[Site, Hard] = {}  # what was written
        self._late: dict[Site, tuple[Tensor, Hard]] = {}  # what waits for somebody who has swapped weights meanwhile
        self._masks, self._depth = masks, 0
        self._optimizer, self._rests = optimizer, False

    @torch.no_grad()
    def harden(self) -> None:
        """Write the zeros of this moment; once, however often it is called before `restore`."""
        self._depth += 1
        if self._depth > 1:
            return
        self.rest()
        with self._masks.whole():
            for site, hard in self._masks.hard().items():
                before = site.live().detach().clone()
                if site.mask is None:
                    self.weights[site] = before
                elif not bool((site.weight[~site.mask] != 0).any()):
                    continue
                else:
                    self._filled[site] = before
                site.weight.copy_(hard.of(site.weight))
                site.mask, self._hard[site] = hard.mask, hard
            for follower in self._masks.followers if self.weights else ():
                if any(site.mask is not None for site in follower.sites):
                    self.followers[follower] = follower.parameter.detach().clone()
                    follower.parameter.mul_(follower.alive(follower.parameter))

    @torch.no_grad()
    def restore(self, *, among_others: bool = False) -> None:
        """Put everything back, at the last of as many calls as there were of `harden`.

        Args:
            among_others: somebody may have swapped weights in between, and put back those before, or will yet (an
                average that is looked at by another callback). What is not as `harden` wrote it is left to `settle`,
                and the optimizer to `wake`.
        """
        self._depth -= 1
        if self._depth:
            return
        woken = is_in_train_mode(self._optimizer)
        if woken:
            self._optimizer.eval()  # what that writes is undone at once
        for follower, value in self.followers.items():
            follower.parameter.copy_(value)
        for site, value in (self.weights | self._filled).items():
            if among_others and not self._is_held(site, value, self._hard[site]):
                self._late[site] = value, self._hard[site]
            else:
                site.live().copy_(value)
        for site in self.weights:
            site.mask = None
        self.weights, self.followers, self._filled, self._hard = {}, {}, {}, {}
        self._rests |= woken
        if not among_others:
            self.wake()

    def rest(self) -> bool:
        """Put the weights for evaluation into the model; whether others were in it, and could be exchanged."""
        rests = is_in_train_mode(self._optimizer) and callable(getattr(self._optimizer, "eval", None))
        if rests:
            self._optimizer.eval()
        self._rests |= rests
        return rests

    def wake(self) -> None:
        """Put back the weights that are trained, where `rest` has taken them out."""
        if self._rests and not is_in_train_mode(self._optimizer):
            self._optimizer.train()
        self._rests = False

    @torch.no_grad()
    def settle(self) -> None:
        """Where hard weights came back after all, put back those of before; others are what training goes on with."""
        for site, (value, hard) in self._late.items():
            if self._is_held(site, value, hard):
                site.live().copy_(value)
        self._late = {}

    def _is_held(self, site: Site, before: Tensor, hard: Hard) -> bool:
        live = site.live().detach()
        return type(live) is not Tensor or torch.equal(live, hard.of(before))


def is_in_train_mode(optimizer: Any) -> bool:
    """Whether an optimizer keeps weights for evaluation that are not those in the model at this moment."""
    return any(group.get("train_mode") for group in getattr(optimizer, "param_groups", ()))
