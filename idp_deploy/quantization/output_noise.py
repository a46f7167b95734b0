"""What the model's own outputs lose where one layer alone computes with 8-bit activations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from idp_deploy.quantization.absorbing import owner_of
from idp_deploy.quantization.activation_noise import rounded
from idp_deploy.quantization.watching import watch
from idp_deploy.quantizers import decibels
from idp_deploy.soundness import unmapped

Range = tuple[float, float]


@torch.no_grad()
def output_noise(module: nn.Module, names: Collection[str], calls: Sequence[tuple[Any, ...]]) -> dict[str, float]:
    """Signal to noise of the outputs in decibels, by the weight of the one layer whose input and result are rounded.

    Args:
        names: weights of layers that take one tensor and give one.
    """
    owners = {name: owner for name in names if (owner := owner_of(module, name)) is not None}
    ends: dict[str, tuple[Range, Range]] = dict.fromkeys(owners, ((0.0, 0.0), (0.0, 0.0)))

    def see(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        before, after = ends[name]
        ends[name] = _wider(before, inputs[0]), _wider(after, output)

    watch(module, owners, calls, see)
    wanted = [_floats(module(*call)) for call in calls]
    found = {}
    for name, owner in owners.items():
        before, after = ends[name]
        handles = [
            owner.register_forward_pre_hook(lambda _, x, ends=before: (rounded(x[0], *ends), *x[1:])),
            owner.register_forward_hook(lambda _, x, y, ends=after: rounded(y, *ends)),
        ]
        try:
            given = [_floats(module(*call)) for call in calls]
        finally:
            for handle in handles:
                handle.remove()
        pairs = [pair for one, other in zip(wanted, given, strict=True) for pair in zip(one, other, strict=True)]
        signal = sum(float(one.square().sum()) for one, _ in pairs)
        found[name] = decibels(signal, sum(float((one - other).square().sum()) for one, other in pairs))
    return found


def _floats(outputs: Any) -> list[Tensor]:
    return [leaf.double() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _wider(known: Range, x: Tensor) -> Range:
    x = unmapped(x)
    return min(known[0], float(x.min())), max(known[1], float(x.max()))
