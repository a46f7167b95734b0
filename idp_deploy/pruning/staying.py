"""Whether the model is still the one that masks were made for: layers replaced, tied, added, or kept from training."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from torch import Tensor, nn

from idp_deploy.errors import UsageError, warn
from idp_deploy.loading.misfits import ADAPTER
from idp_deploy.pruning.plan import OWN_FORWARD
from idp_deploy.pruning.sites import REPLACING, Site, still_soft


def refuse_replaced(module: nn.Module, sites: Sequence[Site]) -> None:
    """Raise `UsageError` where a layer that carries a mask is no longer the one in the model, or weights were tied."""
    here = dict(module.named_parameters(remove_duplicate=False))
    layers = {id(part) for part in module.modules()}
    held: dict[int, Site] = {}
    for site in sites:
        live = site.live()
        for place, owner in zip(site.where.places, site.owners, strict=bool(site.owners)):
            name = f"{place.owner}.{place.leaf}".lstrip(".")
            if id(owner) not in layers or here.get(name) is not live:
                raise UsageError(
                    f"weight '{name}' is not the one that was pruned so far: its layer was replaced, wrapped or untied "
                    f"since prepare(), and the mask of '{site.name}' stayed with what was there",
                    way_out=REPLACING,
                )
        if held.setdefault(id(live), site) is not site:
            raise UsageError(
                f"weights '{held[id(live)].name}' and '{site.name}' have become one since prepare(), and each has a "
                "mask of its own",
                way_out=REPLACING,
            )
    refuse_shared_memory(sites)


def refuse_keras(module: nn.Module) -> None:
    """Raise `UsageError` where layers are Keras's, whose forward reads its variables and not the module's weights."""
    for part in module.modules():
        if any(base.__module__.partition(".")[0] == "keras" for base in type(part).__mro__):
            raise UsageError(
                f"'{type(part).__name__}' is a layer of Keras, which computes with variables of its own: no mask in "
                "front of the module's weights would reach it",
                way_out="build the network of torch.nn layers, copy the weights into them, and prune that",
            )


def refuse_shared_memory(sites: Sequence[Site]) -> None:
    """Raise `UsageError` where what is written to one entry changes another one, of the same weight or of two, or
    where nothing can be written."""
    taken: list[tuple[int, int, Site]] = []  # first byte, the one behind the last
    for site in sites:
        weight = site.live().detach()
        if type(weight) is not Tensor or weight.is_meta or not weight.numel():
            continue
        if weight.is_inference():
            raise UsageError(
                f"weight '{site.name}' was made in torch.inference_mode, which lets nobody write to it any more",
                way_out="build the model outside of it, or prune copy.deepcopy(model)",
            )
        apart = [(extent, stride) for extent, stride in zip(weight.shape, weight.stride(), strict=True) if extent > 1]
        if any(not stride for _, stride in apart):
            raise UsageError(
                f"entries of weight '{site.name}' lie in the same memory (expand), and are to be pruned one by one",
                way_out="give it values of its own before prepare(): weight.data = weight.data.clone(memory_format="
                "torch.contiguous_format)",
            )
        if (spread := 1 + sum((extent - 1) * stride for extent, stride in apart)) == weight.numel():
            taken.append((weight.data_ptr(), weight.data_ptr() + spread * weight.element_size(), site))
    taken.sort(key=lambda one: one[:2])
    for (_, end, site), (start, _, other) in pairwise(taken):
        if start < end:
            raise UsageError(
                f"weights '{site.name}' and '{other.name}' are two parameters in the same memory, and each would have "
                "a mask of its own",
                way_out="tie them as one parameter (b.weight = a.weight, not b.weight.data = a.weight.data), or give "
                "each its own values (.data.clone()), before prepare()",
            )


def refuse_unread(sites: Sequence[Site]) -> None:
    """Raise `UsageError` where weights are trained that the forward of their own layers never reads."""
    if not any(site.seen or not site.copies for site in sites):
        return  # copies learn for it, as in MAML
    unread = [site for site in sites if not site.seen and site.live().grad is not None]
    if len(unread) == len(sites) > 1:
        raise UsageError(
            f"the pruned weights are trained, '{unread[0].name}' first, and none is read by the forward of its own "
            "layer, so no mask reaches them: something else computes with them (higher, make_functional)",
            way_out=OWN_FORWARD,
        )
    for site in unread:
        raise UsageError(
            f"weight '{site.name}' is trained but not read by the forward of its own layer, so no mask reaches it",
            way_out=f'leave it out with skip = ["{site.name}"]',
        )


def say_still(model: nn.Module, sites: Sequence[Site]) -> None:
    """Warn of pruned weights that do not train, and of adapters: merging one fills the zeros of what it goes into."""
    still = [site.name for site in sites if not site.live().requires_grad]
    adapter = next((name for name, _ in model.named_parameters() if re.search(ADAPTER, name)), None)
    if adapter is not None:
        beside = f"; {len(still)} of {len(sites)} pruned weights do not train beside it" if still else ""
        warn(
            f"the model holds an adapter ('{adapter}'), and merging it fills the zeros of the weights that it goes into"
            f"{beside}",
            "merge it first (model.merge_and_unload()) and prune that; or merge after finalize(), call "
            "pruner.apply_to(merged), and measure that",
        )
    elif still:
        warn(
            f"{len(still)} of {len(sites)} pruned weights do not train (requires_grad is False), '{still[0]}' first: "
            "they are pruned like all others, and nothing makes up for it",
            f'leave such weights out with skip = ["{still[0]}", …], or let them train',
        )


def say_unpruned(model: nn.Module, known: Collection[str]) -> None:
    """Warn of weights whose names are not among those `known` when masks were made."""
    came = [name for name, parameter in model.named_parameters() if parameter.dim() > 1 and name not in known]
    if came:
        warn(
            f"weights that came into the model after Pruner(model) stay dense: {len(came)}, '{came[0]}' first",
            "add layers before it",
        )


def say_soft(model: nn.Module) -> None:
    """Warn of a model that is about to ship out of the middle of its training."""
    if name := still_soft(model):
        warn(
            f"the model is still in training under the masks of a Pruner: '{name}' is written as its soft mask has it "
            "at this moment, without the zeros that it will have",
            "export what pruner.finalize() returns, or inside `with pruner.hardened():` what would ship now",
        )
