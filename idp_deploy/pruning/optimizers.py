"""What an optimizer makes of the size of a gradient: it decides how soft masks may be."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from idp_deploy.pruning.sites import Site

# settings of optimizers that divide every step by a size of gradients, or take its sign (Adam and its kin, Lion, Muon)
_DIVIDING = {"betas", "beta", "beta1", "beta2", "beta2_decay", "eps", "alpha", "etas", "ns_steps"}
_PROPORTIONAL = {"dampening", "lambd"}  # what only SGD and its kin have; some of them (LARS) an eps as well


def bare_optimizer(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of accelerate and Lightning."""
    return getattr(optimizer, "optimizer", optimizer)


def is_adaptive(optimizer: Any) -> bool:
    """Whether the size of a gradient cancels in the step that it makes.

    The names of its settings tell, whoever wrote it; one without such names counts as SGD.

    >>> import torch
    >>> weights = [torch.zeros(2, requires_grad=True)]
    >>> [is_adaptive(kind(weights, lr=0.1)) for kind in (torch.optim.SGD, torch.optim.ASGD, torch.optim.AdamW)]
    [False, False, True]
    >>> is_adaptive(torch.optim.Optimizer(weights, {"lr": 0.1, "momentum": 0.9, "ns_steps": 5}))  # Muon, as published
    True
    """
    groups = getattr(bare_optimizer(optimizer), "param_groups", None) or [{}]
    return bool(_DIVIDING & groups[0].keys()) and not _PROPORTIONAL & groups[0].keys()


def trains(optimizer: Optimizer, sites: Iterable[Site]) -> bool:
    """Whether it holds one of these weights."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    # of every training of the process: a layer that a run left behind lacks its weight is that run's to say
    weights = (site.owner._parameters.get(site.where.places[0].leaf) for site in sites)
    return any(weight is not None and id(weight) in held for weight in weights)


_left: list[RemovableHandle] = []  # of owners that are gone
_running: list[Optimizer] = []  # whose hooks are being called, which is no time to take any away


def at_each_step(tell: Callable[[Any], None], *, begins: bool = False) -> RemovableHandle:
    """Calls the method `tell` with every optimizer of the process that takes a step, as long as its owner lives.

    Args:
        begins: before the step; otherwise behind it.
    """
    weak = weakref.WeakMethod(tell, lambda _: _leave(handle))

    def look(optimizer: Optimizer, *_: Any) -> None:
        _running.append(optimizer)
        try:
            if (call := weak()) is not None:
                call(optimizer)
        finally:
            _running.pop()

    handle = (register_optimizer_step_pre_hook if begins else register_optimizer_step_post_hook)(look)
    return handle


def _leave(handle: RemovableHandle) -> None:
    """Take hooks away: Python may find an owner gone while it goes through them, and then the next one takes both."""
    _left.append(handle)
    while _left and not _running:
        _left.pop().remove()
