"""Gates: what a soft mask of channels does to the norms, biases and depthwise filters behind them.

A batch norm takes away any factor in front of it. Behind one, half a channel is a whole one until it is exactly zero,
and the gradient of its weights grows as the factor falls; so where norms follow, the mask multiplies their factors and
shifts, and the weights in front stay as they are until they are hard. A bias that its own weights' mask leaves alone
would jump when it is hardened; it goes by the same gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from idp_deploy.channels import Coupled
from idp_deploy.pruning.following import Follower
from idp_deploy.pruning.sites import Leave, relist, settle


def follows_norms(module: nn.Module, weights: int, coupled: Coupled) -> bool:
    """Whether there is a norm with factors of its own, for all of the channels, for each of as many weights."""
    whole = [name for name in coupled.followers if len({*coupled.channels[name]} - {-1}) == coupled.many]
    owners = (module.get_submodule(name.rpartition(".")[0]) for name in whole if name.endswith(".weight"))
    return len({id(one) for one in owners if isinstance(one, nn.modules.batchnorm._NormBase)}) >= weights


class _Enter:
    """Forward pre-hook of a follower's layer."""

    def __init__(self, follower: Follower, owner: nn.Module, leaf: str) -> None:
        self.follower, self.owner, self.leaf = follower, owner, leaf

    def __call__(self, module: nn.Module, args: Any) -> None:
        parameter = self.owner._parameters.get(self.leaf)
        if parameter is not None and (gate := self.follower.gate(parameter)) is not None:
            self.owner.__dict__[self.leaf] = gated = parameter * gate
            relist(self.owner, self.leaf, gated)

    @torch.no_grad()
    def __reduce__(self) -> tuple[Any, ...]:
        parameter = self.owner._parameters[self.leaf]
        gate = None if parameter is None else self.follower.gate(parameter)
        return settle, (parameter, None if gate is None or parameter is None else parameter * gate, None)


def attach_gates(module: nn.Module, followers: Sequence[Follower]) -> list[torch.utils.hooks.RemovableHandle]:
    """Make every layer that holds a follower read it through the gates of its sites; the handles undo it."""
    handles = []
    for follower in followers:
        owner, leaf = module.get_submodule(follower.name.rpartition(".")[0]), follower.name.rpartition(".")[2]
        handles.append(owner.register_forward_pre_hook(_Enter(follower, owner, leaf)))
        handles.append(owner.register_forward_hook(Leave(owner, leaf), always_call=True))
    return handles
