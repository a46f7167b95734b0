"""Weights that somebody else writes: a state of the model beside a pruner's, and what comes after the last step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.errors import warn
from idp_deploy.flow.model import gathered
from idp_deploy.pruning.copies import sample
from idp_deploy.pruning.masking import Masking
from idp_deploy.pruning.plan import Plan
from idp_deploy.pruning.sharding import laid_as, part
from idp_deploy.pruning.sites import Nothing

_ROUNDED = 1e-2  # what half precision in between may have changed of them


class Beside:
    """The weights that a loaded pruner's state was saved beside, held against the model's until training goes on.

    Where these were saved hardened, the pruner's state has the dense ones to train on with. A model's own state that is
    loaded after it writes the hardened ones over them: here they are put back, whatever comes first.
    """

    def __init__(self, masks: Masking, state: Mapping[str, Any]) -> None:
        module, dense = masks.surroundings.module, state.get("dense", {})
        self._sites = {site.name: site for site in masks.sites}
        self._dense: dict[str, tuple[Tensor, Tensor]] = {}  # as they were, and hardened; in parts where these are
        with torch.no_grad(), masks.whole() if dense else nullcontext():
            for names, harden in masks.shipped() if dense else ():
                for name in (name for name in names if name in dense):
                    live, value = module.get_parameter(name), gathered(dense[name])
                    self._dense[name] = laid_as(live, value), laid_as(live, harden(value))
        samples = {name: saved.get("sample") for name, saved in state["sites"].items()} | state.get("others", {})
        self._apart: set[str] = set()
        self._names: dict[nn.Module, list[str]] = {}
        here = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self._samples = {name: saved for name, saved in samples.items() if name in here}
        for name in dict.fromkeys([*self._sites, *(one.name for one in masks.followers), *self._samples]):
            owner = module.get_submodule(name.rpartition(".")[0])
            self._names.setdefault(owner, []).append(name)
        self._handles = [owner.register_load_state_dict_post_hook(self) for owner in self._names]
        self.look()

    def __call__(self, module: nn.Module, _: Any) -> None:
        self._look_at(module)

    def __reduce__(self) -> tuple[Any, ...]:
        return Nothing, ()  # in a copy of the model

    def look(self) -> None:
        """Put dense weights back where hardened ones stand, and see which weights are others altogether."""
        for owner in self._names:
            self._look_at(owner)

    def close(self, *, look: bool) -> None:
        """Training goes on: no more is put back, and it is said where the weights are others.

        Args:
            look: whether no step was taken yet, so that the weights are still those that were loaded.
        """
        if look:
            self.look()
        for handle in self._handles:
            handle.remove()
        if self._apart:
            first = next(name for name in self._samples if name in self._apart)
            warn(
                f"the model's weights are not those beside which the loaded state of the pruner was saved: "
                f"{len(self._apart)} of {len(self._samples)} differ, '{first}' first (the model's own state was not "
                "loaded or in part, is of another moment or an average, or came as a pickled or copied module, which "
                "holds what masks made of the weights)",
                "load the model's state_dict() and the pruner's of one moment, both before prepare()",
            )

    @torch.no_grad()
    def _look_at(self, owner: nn.Module) -> None:
        for name in self._names[owner]:
            live = self._sites[name].live() if name in self._sites else owner._parameters[name.rpartition(".")[2]]
            if live is None:
                continue
            if name in self._dense:
                dense, hardened = (part(laid_as(live, value)) for value in self._dense[name])
                here = part(live)
                if torch.equal(here.cpu(), hardened.to("cpu", here.dtype)):
                    here.copy_(dense)
            if name in self._samples:
                (self._apart.discard if _is_saved(live, self._samples[name]) else self._apart.add)(name)


def others(masks: Masking) -> dict[str, Tensor]:
    """A few entries of every parameter without a mask: these tell whether the model's own state was loaded."""
    masked = {site.name for site in masks.sites} | {follower.name for follower in masks.followers}
    parameters = masks.surroundings.module.named_parameters()
    found = {n: p for n, p in parameters if n not in masked and type(p.detach()) is Tensor and p.is_floating_point()}
    return {name: sample(parameter) for name, parameter in found.items()}


def _is_saved(live: Tensor, saved: Tensor | None) -> bool:
    live = live.detach()
    if saved is None or type(live) is not Tensor or not live.numel():
        return True
    now, saved = sample(live).float(), saved.to("cpu", torch.float32)
    least = _ROUNDED * float(now.square().mean().sqrt())
    return now.shape == saved.shape and torch.allclose(now, saved, rtol=_ROUNDED, atol=least)


def say_written(masks: Masking, plan: Plan, steps: int) -> None:
    """Weights that somebody wrote to since the last step: are they hardened ones already, or were they measured so?"""
    if not steps or not plan.written() or masks.adopt() or plan.measured():
        return
    lost = sum(int((site.weight[~site.mask] != 0).sum()) for site in masks.sites if site.mask is not None)
    frozen = f"; {lost:,} entries that are zero by the masks were filled, and are zero again" if lost else ""
    warn(
        f"the model's weights were written to after the last step() of the pruner (load_state_dict, an average, or "
        f"training on){frozen}. The masks of step {steps} prune them now, and no accuracy was measured so",
        "save the best so far inside pruner.hardened(), or its pruner.state_dict() beside it, and load both; "
        "pruner.apply_to(copy) is for averages",
    )
