"""Gates: what a soft mask of channels does to the norms, biases and depthwise filters behind them.

A batch norm takes away any factor in front of it. Behind one, half a channel is a whole one until it is exactly zero,
and the gradient of its weights grows as the factor falls; so where norms follow, the mask multiplies their factors and
shifts, and the weights in front stay as they are until they are hard. A bias that its own weights' mask leaves alone
would jump when it is hardened; it goes by the same gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.pruning.sites import Leave, Site, settle


def follows_norms(module: nn.Module, weights: int, followers: tuple[str, ...]) -> bool:
    """Whether there is a norm with factors of its own for each of as many weights."""
    owners = (module.get_submodule(name.rpartition(".")[0]) for name in followers if name.endswith(".weight"))
    return len({id(one) for one in owners if isinstance(one, nn.modules.batchnorm._NormBase)}) >= weights


class _Enter:
    """Forward pre-hook of a follower's layer."""

    def __init__(self, site: Site, owner: nn.Module, leaf: str) -> None:
        self.site, self.owner, self.leaf = site, owner, leaf

    def __call__(self, module: nn.Module, args: Any) -> None:
        parameter = self.owner._parameters.get(self.leaf)
        if parameter is not None and (gate := self.gate(parameter)) is not None:
            self.owner.__dict__[self.leaf] = parameter * gate

    def gate(self, parameter: Tensor) -> Tensor | None:
        """What the follower is multiplied by, an entry a channel; None while its channels are whole or hard."""
        gate: Tensor | None = self.site.state.get("gate")
        if gate is None or self.site.mask is not None:
            return None
        each = parameter.shape[0] // gate.numel()  # several behind a flatten
        return gate.repeat_interleave(each).reshape(-1, *[1] * (parameter.dim() - 1)).to(parameter.dtype)

    @torch.no_grad()
    def __reduce__(self) -> tuple[Any, ...]:
        parameter = self.owner._parameters[self.leaf]
        gate = None if parameter is None else self.gate(parameter)
        return settle, (parameter, None if gate is None or parameter is None else parameter * gate, None)


def attach_gates(
    module: nn.Module, followers: Mapping[str, tuple[Site, nn.Parameter]]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Make every layer that holds a follower read it through its site's gate; the handles undo it.

    Args:
        followers: by name in `module`, each with the first site of its channels.
    """
    handles = []
    for name, (site, _) in followers.items():
        owner, leaf = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        handles.append(owner.register_forward_pre_hook(_Enter(site, owner, leaf)))
        handles.append(owner.register_forward_hook(Leave(owner, leaf), always_call=True))
    return handles
