"""Weights of which every process holds a part: whole while masks are chosen, sharded before and after.

`torch.distributed.fsdp.fully_shard` turns parameters into `DTensor`s and puts the whole weight into the layer for the
time of its forward, where the soft mask is computed as ever. A threshold needs all entries at once, so each step the
prunable weights are gathered, every process computes the same masks from them, and keeps what was written to its part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from idp_deploy.errors import UsageError, warn
from idp_deploy.flow.model import gathered
from idp_deploy.pruning.sites import REPLACING, Site

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def refuse_flat(module: nn.Module) -> None:
    """Raise `UsageError` where parameters were flattened by the older FullyShardedDataParallel."""
    if any(type(child).__name__ == "FullyShardedDataParallel" for child in module.modules()):
        raise UsageError(
            "the model is wrapped in FullyShardedDataParallel, which flattens weights into one vector",
            way_out="shard it by torch.distributed.fsdp.fully_shard, which keeps them apart",
        )


def say_unreduced(model: nn.Module, method: str) -> None:
    """Warn where DistributedDataParallel waits, or may wait, for gradients that `method` gives to no weight."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    parts = [part for part in model.modules() if isinstance(part, nn.parallel.DistributedDataParallel)]
    if not distributed or any(map(_is_sharded, model.parameters())) or any(one.find_unused_parameters for one in parts):
        return
    warn(
        f"method {method} gives no gradients to the weights it prunes, and DistributedDataParallel waits for these: "
        'the second forward ends in "Expected to have finished reduction"',
        "wrap the model by DistributedDataParallel(model, find_unused_parameters=True)",
    )


@contextmanager
def whole(sites: Sequence[Site], *, unless: str = "") -> Iterator[None]:
    """Inside, each `site.weight` holds all entries of the weight; changes to it are kept.

    Args:
        unless: what cannot be done with sharded weights, where there is such a thing.

    Raises:
        UsageError: a weight is sharded in a way, or for a method, that masks cannot follow.
    """
    gathered = []
    for site in sites:
        live = site.live()
        if live.shape != site.shape:
            raise UsageError(
                f"weight '{site.name}' has changed its shape to {tuple(live.shape)}",
                way_out=f"{REPLACING}; sharding has to keep shapes, as torch.distributed.fsdp.fully_shard does",
            )
        site.weight = live
        if _is_sharded(live):
            if unless:
                refuse_sharded([site], unless)
            full = cast("DTensor", live.detach()).full_tensor()
            gathered.append((site, live, full, full._version))
    for site, _, full, _ in gathered:
        site.weight = full
    try:
        yield
    finally:
        for site, live, full, version in gathered:
            site.weight = live
            if full._version != version:
                _keep_part(live, full)


def refuse_sharded(sites: Sequence[Site], what: str) -> None:
    """Raise `UsageError` where a weight is in parts, which `what` cannot do with."""
    for site in sites:
        if _is_sharded(site.live()):
            raise UsageError(
                f"weight '{site.name}' is sharded, and {what} needs the whole network in every process",
                way_out="choose another one, or train without sharding",
            )


def _is_sharded(weight: torch.Tensor) -> bool:
    if type(weight) in (nn.Parameter, torch.Tensor):  # nearly always, and DTensor is slow to import
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)


@torch.no_grad()
def _keep_part(live: nn.Parameter, full: torch.Tensor) -> None:
    part(live).copy_(part(laid_as(live, full)))


def part(weight: torch.Tensor) -> torch.Tensor:
    """What of a weight is in this process, in the same memory: its own part where it is sharded, else all of it."""
    return cast("DTensor", weight).to_local() if _is_sharded(weight) else weight


def laid_as(live: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` in parts where `live` is, and whole where that is whole.

    Processes talk to each other only where `value` is in other parts than `live`.
    """
    if not _is_sharded(live):
        return gathered(value)
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = cast(DTensor, live).device_mesh, cast(DTensor, live).placements
    if isinstance(value, DTensor) and (value.device_mesh, value.placements) == (mesh, placements):
        return value
    whole = gathered(value).to(live.device)
    return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(mesh, placements)
