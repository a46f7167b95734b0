"""A network without some of its channels: which may go since nothing comes of them, and taking them out for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.channels.tracing import Channels, channel_axis, is_hidden, outputs, root_of, same, traced

# a channel whose parameters are all zero stays zero through these, so that what follows never sees it
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def dead_channels(module: nn.Module, example_inputs: tuple[Any, ...]) -> dict[str, list[int]]:
    """Channels that are zero in every layer they are coupled to, by the layer their group begins with; never all."""
    with traced(module, example_inputs) as channels:
        found = {root_of(group): dead for group in channels.groups() if (dead := _dead(channels, group))}
        closed = {root: channels.closed(root, dead) for root, dead in found.items()}
    return {root: dead for root, dead in closed.items() if dead}


def cut(
    twins: Sequence[nn.Module], gone: Mapping[str, list[int]], example_inputs: tuple[Any, ...], before: list[Tensor]
) -> tuple[Sequence[nn.Module] | None, str]:
    """Copies of modules of one architecture without the channels `gone`, or None with the reason.

    Args:
        before: what the first of them gives for the example; without the channels it has to be the same.
    """
    smaller = deepcopy(twins)
    try:
        for twin in smaller:
            with traced(twin, example_inputs) as channels:
                for root, indices in gone.items():
                    channels.group(root, indices).prune()
        after = outputs(smaller[0], example_inputs)
    except Exception as error:  # the tracer's own, or a forward that counts on its extents
        return None, (str(error).splitlines() or [""])[0]
    return (smaller, "") if same(before, after) else (None, "it would change the model's outputs")


def _dead(channels: Channels, group: Any) -> list[int]:
    """Indices of the root's channels that are zero in every layer of the group; never all of them."""
    indices = group[0].idxs
    alive = torch.zeros(len(indices), dtype=torch.bool)
    for dependency, places in group:
        if is_hidden(channels, dependency):
            return []
        if not channels.makes(dependency):
            continue
        owner = dependency.target.module
        if not dependency.target.outputs:
            return []
        if isinstance(owner, nn.Module) and any(True for _ in owner.parameters()) and len(places) != len(indices):
            return []  # a layer that sees several entries of a channel
        if (isinstance(owner, _NORMS) and not owner.affine) or isinstance(owner, nn.Parameter | nn.Embedding):
            return []
        for leaf, parameter in owner.named_parameters(recurse=False):
            entries = parameter.detach().movedim(channel_axis(owner, leaf), 0)
            if max(places) >= len(entries):
                return []  # the tracer took another axis for the channels
            entries = entries[places]
            alive |= entries.flatten(1).any(1) if entries.dim() > 1 else entries != 0
    dead = [index for index, living in zip(indices, alive.tolist(), strict=True) if not living]
    return dead if len(dead) < len(indices) else dead[1:]
