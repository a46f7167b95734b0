"""Calls run through a module, and what its layers took and gave meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.soundness import cloned
from idp_deploy.waiting import counted


@torch.no_grad()
def watch(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    calls: Sequence[tuple[Any, ...]],
    see: Callable[[str, nn.Module, tuple[Any, ...], Tensor], None],
) -> None:
    """Run the calls; after each forward of a layer `see(name, layer, inputs, output)`, where inputs[0] has entries.

    What `see` runs through a layer is not seen again.
    """
    seeing = False

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            nonlocal seeing
            if seeing or not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].numel():
                return
            seeing = True
            see(name, layer, inputs, output)
            seeing = False

        return hook

    handles = [layer.register_forward_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        for call in counted(calls, "watching activations"):
            module(*cloned(call))
    finally:
        for handle in handles:
            handle.remove()
