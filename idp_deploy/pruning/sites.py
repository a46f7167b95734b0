"""Where a mask meets a layer: during a forward the layer reads the masked weight, otherwise it is as it was.

The masked weight is put into the layer's instance dictionary, which Python looks up before `nn.Module` asks for the
parameter. So nothing is added to the state dict, the parameter stays dense and trainable, and a forward that runs
twice (gradient checkpointing) masks twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.masks import Pattern, Prunable


@dataclass(eq=False)
class Site:
    """The pruning state of one weight."""

    name: str
    weight: nn.Parameter
    where: Prunable
    pattern: Pattern
    budget: int = 0  # zeros at the end
    zeros: int = 0  # zeros now
    mask: Tensor | None = None  # once frozen (or in the middle of `hardened`), what the forward uses
    masked: Callable[[Site, Tensor], Tensor] | None = None  # the method's forward; None: dense
    state: dict[str, Any] = field(default_factory=dict)  # the method's own: t, τ, scores, …
    still: bool = False  # whether the weight itself no longer learns
    seen: bool = False  # whether a forward has read it

    def read(self) -> Tensor:
        """The weight as the layer sees it."""
        if self.mask is not None:
            return (self.weight.detach() if self.still else self.weight) * self.mask
        return self.weight if self.masked is None else self.masked(self, self.weight)

    def threshold(self) -> Tensor:
        """t of the pattern at the current number of zeros."""
        return self.pattern.threshold(self.weight.detach(), self.zeros, self.where.output_axis)

    def magnitude_mask(self, zeros: int | None = None) -> Tensor:
        """The exact hard mask by size, at the current number of zeros."""
        zeros = self.zeros if zeros is None else zeros
        return self.pattern.hard_mask(self.weight.detach(), zeros, self.where.output_axis, floor=True)

    def mask_by(self, entry_scores: Tensor) -> Tensor:
        """The exact hard mask at the current number of zeros by scores of w's shape, the largest kept."""
        axis = self.where.output_axis
        scores = self.pattern.unit_scores(entry_scores, axis)
        return self.pattern.mask_by(scores, tuple(self.weight.shape), self.zeros, axis, floor=True)


class _Enter:
    """Forward pre-hook of one reading module."""

    def __init__(self, site: Site, owner: nn.Module, leaf: str) -> None:
        self.site, self.owner, self.leaf = site, owner, leaf

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.site.seen = True
        self.owner.__dict__[self.leaf] = self.site.read()


class _Leave:
    """Forward hook of the same module; runs after an exception too."""

    def __init__(self, owner: nn.Module, leaf: str) -> None:
        self.owner, self.leaf = owner, leaf

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.owner.__dict__.pop(self.leaf, None)


def attach(module: nn.Module, site: Site) -> list[torch.utils.hooks.RemovableHandle]:
    """Make every layer that holds the site's weight read `site.read()`; the handles undo it."""
    handles = []
    for place in site.where.places:
        owner, reader = module.get_submodule(place.owner), module.get_submodule(place.reader)
        handles.append(reader.register_forward_pre_hook(_Enter(site, owner, place.leaf)))
        handles.append(reader.register_forward_hook(_Leave(owner, place.leaf), always_call=True))
    return handles
