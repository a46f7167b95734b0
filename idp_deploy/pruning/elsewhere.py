"""The pruned weights in another model of the same architecture: an average, the best so far, a state dict."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError, warn
from idp_deploy.flow import Recipe
from idp_deploy.loading.misfits import ADAPTER
from idp_deploy.pruning.copies import counterparts, module_of
from idp_deploy.pruning.masking import Hard, Masking
from idp_deploy.pruning.results import Finalized
from idp_deploy.pruning.sites import Nothing, Site


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """Names and tensors of another model, and what hardening writes to them."""

    module: nn.Module | None  # None: a state dict
    tensors: Mapping[str, Tensor]
    prefix: str
    names: Mapping[str, str]  # name of a pruned weight → its name there
    hard: Mapping[Site, Hard]
    masking: Masking

    def harden(self, recipe: Recipe) -> Finalized | dict[str, Tensor]:
        """The zeros written into the module's weights, or a state dict that has them."""
        written = self._hardened()
        if self.module is None:
            return {**self.tensors, **written}
        with torch.no_grad():
            for name, value in written.items():
                self.tensors[name].copy_(value)
        module = self.module.get_submodule(self.prefix.rstrip("."))
        _clear(module)
        masks = {self.names[site.name].removeprefix(self.prefix): hard.mask.clone() for site, hard in self.hard.items()}
        for name in (self.names[site.name] for site in self.masking.sites if site.name in self.names):
            masks.setdefault(name.removeprefix(self.prefix), torch.ones_like(self.tensors[name], dtype=torch.bool))
        return Finalized(module, masks, recipe)

    @contextmanager
    def for_a_while(self) -> Iterator[nn.Module]:
        """Inside, the module's weights are hardened; afterwards they are as before."""
        if self.module is None:
            raise UsageError("hardened() takes a module", way_out="apply_to(state_dict) returns a hardened one")
        kept = {name: self.tensors[name].detach().clone() for name in self._hardened()}
        try:
            with torch.no_grad():
                for name, value in self._hardened().items():
                    self.tensors[name].copy_(value)
            yield self.module
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    self.tensors[name].copy_(value)

    @torch.no_grad()
    def _hardened(self) -> dict[str, Tensor]:
        found = {}
        for site, hard in self.hard.items():
            weight = self.tensors[self.names[site.name]].detach()
            found[self.names[site.name]] = Hard(hard.mask, self.masking.baked(site, weight)).of(weight)
        for follower in self.masking.followers:
            name = self.names[f"follower {follower.name}"]
            if any(site.mask is not None for site in follower.sites):
                weight = self.tensors[name].detach()
                found[name] = torch.where(follower.alive(weight), weight, torch.zeros_like(weight))
        return found


def find(other: Any, masking: Masking) -> Elsewhere:
    """Where `other` has the weights that are pruned here.

    Raises:
        UsageError: it is no copy of the model.
    """
    module = None if isinstance(other, Mapping) else module_of(other)
    if module is None and not isinstance(other, Mapping):
        raise UsageError(
            f"{type(other).__name__} is neither a module nor a state dict",
            way_out="give the module that holds the copied weights, or copy them into the model and call finalize()",
        )
    tensors: Mapping[str, Tensor] = other if module is None else dict(module.named_parameters(remove_duplicate=False))
    called = _merged([site.name for site in masking.sites], tensors)
    wanted = {called[site.name]: site.weight for site in masking.sites if site.name in called}
    prefix, names = counterparts(wanted, {n: t for n, t in tensors.items() if isinstance(t, Tensor)})
    cut = _cut(next(iter(wanted)), names, prefix)
    followers = {f"follower {one.name}": prefix + one.name.removeprefix(cut) for one in masking.followers}
    there = {name: names[spelled] for name, spelled in called.items()} | followers
    hard = {site: hard for site, hard in masking.hard().items() if site.name in called}
    return Elsewhere(module, tensors, prefix, there, hard, masking)


@torch.no_grad()
def harden_averages(masking: Masking) -> None:
    """Put the zeros into averages that were made by deep copy while masks were in the model, and say so."""
    found = [pair for site in masking.sites for pair in _averages(site)]
    if not found:
        return
    if masking.followers:
        warn(
            "an average of the model is not hardened: norms and biases belong to the channels that went",
            "call pruner.apply_to(average)",
        )
        return
    zeros, entries = 0, 0
    for site, weight in found:
        assert site.mask is not None
        weight.copy_(Hard(site.mask).of(weight))
        zeros, entries = zeros + int((weight == 0).sum()), entries + weight.numel()
    warn(f"an average of the model (EMA, SWA) was hardened by the same masks: {zeros:,} of {entries:,} are zero")


def _averages(site: Site) -> list[tuple[Site, nn.Parameter]]:
    """Copies of one weight that follow it, and lack zeros that its mask says."""
    assert site.mask is not None
    pruned, found = int((~site.mask).sum()), [copy.average() for copy in site.copies]
    return [(site, weight) for weight in found if weight is not None and int((weight == 0).sum()) < pruned]


def _merged(names: Sequence[str], there: Collection[str]) -> dict[str, str]:
    """Name of a pruned weight → what it is called where adapters were merged, and these are gone; else its own name."""
    left = [name for name in names if not re.search(ADAPTER, name)]
    if not left or any(re.search(ADAPTER, name) for name in there):
        return {name: name for name in names}
    return {name: name if name in there else name.replace(".base_layer.", ".") for name in left}


def _cut(name: str, names: Mapping[str, str], prefix: str) -> str:
    """What the names here have in front that those there lack."""
    return name.removesuffix(names[name].removeprefix(prefix))


def _clear(module: nn.Module) -> None:
    """Take out what is left of hooks that a copy was made with."""
    for part in module.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Nothing)]:
                del hooks[key]
                part._forward_hooks_always_called.pop(key, None)
