"""What a trainer saves of a model in training: the weights that would ship at that moment."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.pruning.pruner import Pruner
from idp_deploy.pruning.sites import Nothing


class Shipping:
    """A state-dict hook: exact zeros in the copy that is saved, none in the weights that train on."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner

    def __call__(self, module: nn.Module, state: MutableMapping[str, Any], prefix: str, _: Any) -> None:
        self.harden(state, prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return Nothing, ()  # in a copy of the model

    @torch.no_grad()
    def harden(self, state: MutableMapping[str, Any], prefix: str = "") -> None:
        """Replace the pruned weights in `state` by hardened ones; sharded weights stay as they are."""
        for names, harden in self.pruner.shipped():
            made: dict[int, Tensor] = {}  # tied weights stay one tensor
            for name in (prefix + n for n in names if prefix + n in state):
                value = state[name]
                if type(value.detach()) is Tensor:
                    state[name] = made.setdefault(value.data_ptr(), harden(value.detach()))


def in_one_precision(module: nn.Module) -> None:
    """Take off, in place, the autocast that accelerate wraps forward in: it is training's, and in no file."""
    for part in module.modules():
        if (forward := vars(part).get("_original_forward")) is not None and "forward" in vars(part):
            part.forward = forward
            del part._original_forward
