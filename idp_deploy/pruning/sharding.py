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

from idp_deploy.errors import UsageError
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
        if live.shape != site.weight.shape:
            raise UsageError(
                f"weight '{site.name}' has changed its shape to {tuple(live.shape)}",
                way_out=f"{REPLACING}; sharding has to keep shapes, as torch.distributed.fsdp.fully_shard does",
            )
        site.weight = live
        if _is_sharded(live):
            if unless:
                raise UsageError(
                    f"weight '{site.name}' is sharded, and {unless} needs the whole network in every process",
                    way_out="choose another one, or train without sharding",
                )
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


def _is_sharded(weight: nn.Parameter) -> bool:
    if type(weight) is nn.Parameter:  # nearly always, and DTensor is slow to import
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)


@torch.no_grad()
def _keep_part(live: nn.Parameter, full: torch.Tensor) -> None:
    from torch.distributed.tensor import DTensor, Replicate

    part = cast(DTensor, live)
    copies = DTensor.from_local(full, part.device_mesh, [Replicate()] * part.device_mesh.ndim, run_check=False)
    part.to_local().copy_(copies.redistribute(part.device_mesh, part.placements).to_local())
