"""A network without some of its channels: which may go since nothing comes of them, and taking them out for real."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from idp_deploy.channels.recurrent import Hidden
from idp_deploy.channels.tracing import (
    NORMS,
    Channels,
    closed,
    first_line,
    is_held,
    outputs,
    same,
    shares_weights,
    traced,
)
from idp_deploy.channels.trying import trial
from idp_deploy.masks import copied


@dataclass(frozen=True)
class Dead:
    """Channels that are zero in every layer they are coupled to, by the layer their group begins with; never all.

    `ways` says of those that can go how their modules' numbers follow; `refused` why others cannot.
    """

    gone: Mapping[str, list[int]]
    ways: Mapping[str, int]
    refused: Mapping[str, str]


def dead_channels(module: nn.Module, example_inputs: tuple[Any, ...]) -> Dead:
    """The channels of `module` that may be taken out: tried on the module itself, which is as before then."""
    shared = shares_weights(module)
    with traced(module, example_inputs) as channels:
        groups = {root: group for root, group in channels.groups() if not isinstance(group, str)}
        found = {root: closed(group, _dead(channels, group, shared)) for root, group in groups.items()}
        found = {root: dead for root, dead in found.items() if dead}
        tried = trial(channels, found, example_inputs)
    gone = {root: dead for root, dead in found.items() if root not in tried.refused}
    return Dead(gone, {root: tried.ways[root] for root in gone}, tried.refused)


def cut(
    twins: Sequence[nn.Module], dead: Dead, example_inputs: tuple[Any, ...], before: list[Tensor]
) -> tuple[Sequence[nn.Module] | None, str]:
    """Copies of modules of one architecture without the channels that are dead, or None with the reason.

    Args:
        before: what the first of them gives for the example; without the channels it has to be the same.
    """
    smaller = [copied(twin) for twin in twins]
    try:
        for twin in smaller:
            with traced(twin, example_inputs) as channels:
                for root in dead.gone:
                    channels.whole(root)  # where heads are
                for root, indices in dead.gone.items():
                    channels.prune(root, indices, dead.ways[root])
        after = outputs(smaller[0], example_inputs)
    except Exception as error:  # the tracer's own, or a forward that counts on its extents
        return None, first_line(error)
    return (smaller, "") if same(before, after) else (None, "it would change the model's outputs")


def _dead(channels: Channels, group: Any, shared: Collection[nn.Module]) -> list[int]:
    """Indices of the root's channels that are zero in every layer of the group; never all of them."""
    alive = dict.fromkeys(group[0].idxs, False)
    for item in group:
        dependency, places = item
        owner = dependency.target.module
        if is_held(channels, dependency) or owner in shared or (isinstance(owner, Hidden) and owner.of[0] in shared):
            return []
        if not channels.makes(dependency):
            continue
        if not dependency.target.outputs:
            return []
        if (isinstance(owner, NORMS) and not owner.affine) or isinstance(owner, nn.Embedding):
            return []
        for entry in channels.entries(dependency):
            entries = entry.by_channel(entry.parameter.detach())
            if max(places) >= len(entries):
                return []  # the tracer took another axis for the channels
            entries = entries[places]
            living = entries.flatten(1).any(1) if entries.dim() > 1 else entries != 0
            for channel, lives in zip(item.root_idxs, living.tolist(), strict=True):
                alive[channel] |= lives
    dead = [channel for channel, lives in alive.items() if not lives]
    return dead if len(dead) < len(alive) else dead[1:]
