"""Which groups of channels can go, and how: they are taken out of a copy, and its outputs tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from idp_deploy.channels.tracing import Channels, first_line, outputs, same

Gone = Mapping[str, list[int]]
_NO_CALL = "without some of them the model cannot be called"
_MOST_TRIALS = 24  # of ways in which numbers follow, all layers together


@dataclass(frozen=True)
class Trial:
    """By the layer that a group begins with: why it cannot go, or in which way the modules' numbers follow."""

    refused: Mapping[str, str]
    ways: Mapping[str, int]


def trial(channels: Channels, gone: Gone, example_inputs: tuple[Any, ...]) -> Trial:
    """Take these channels out, in as few calls as tell which of them can go. All is as before then.

    Layers of one name but for the digits in it, as of block after block, have their numbers follow in one way.
    """
    ways = dict.fromkeys(gone, 0)

    def tried(some: Gone) -> str:
        return _tried(channels, example_inputs, some, ways)

    if not gone or not tried(gone):
        return Trial({}, ways)
    many = {root: channels.ways(root, indices) for root, indices in gone.items()}
    kinds: dict[str, list[str]] = {}
    for root in (root for root, count in many.items() if count > 1):
        kinds.setdefault(re.sub(r"\d+", "", root), []).append(root)
    left = _MOST_TRIALS
    for first, *others in kinds.values():
        one = {first: gone[first]}
        if not tried(one).startswith(_NO_CALL):
            continue  # numbers would not help
        for way in range(1, min(many[first], 1 + left)):
            left -= 1
            if not _tried(channels, example_inputs, one, {first: way}):
                ways |= {root: way for root in (first, *others) if way < many[root]}
                break
    return Trial(_refused(tried, gone), ways)


def _refused(tried: Callable[[Gone], str], gone: Gone) -> dict[str, str]:
    """Groups that cannot go, with the reason: all at once where they can, else halves of them, and so on.

    Layers that stand in the place of each other in other blocks are side by side: mostly all of them go or none.
    """
    reason = tried(gone)
    if not reason or len(gone) == 1:
        return {root: reason for root in gone if reason}
    roots, middle = sorted(gone, key=_place_in_block), len(gone) // 2
    refused: dict[str, str] = {}
    for some in (roots[:middle], roots[middle:]):
        refused |= _refused(tried, {root: gone[root] for root in some})
    return refused


def _place_in_block(root: str) -> str:
    return "".join(letter for letter in reversed(root) if not letter.isdigit())


def _tried(channels: Channels, example_inputs: tuple[Any, ...], gone: Gone, ways: Mapping[str, int]) -> str:
    """Why these channels cannot be taken out at once; nothing where they can."""
    module: nn.Module = channels.graph.model
    groups = [channels.group(root, indices) for root, indices in gone.items()]
    try:
        with channels.for_a_while(groups):
            for root, indices in gone.items():  # each where those before it have left its channels
                channels.prune(root, indices, ways[root])
            left = outputs(module, example_inputs)
    except Exception as error:  # a forward that counts on its extents
        return f"{_NO_CALL}: {first_line(error)}"
    with channels.for_a_while(groups):
        for group in groups:
            _write_zeros(channels, group)
        expected = outputs(module, example_inputs)
    return "" if same(expected, left) else "zeros in its channels are none further on"


@torch.no_grad()
def _write_zeros(channels: Channels, group: Any) -> None:
    for dependency, places in group:
        if channels.makes(dependency):
            for entry in channels.entries(dependency, inside=True):
                zeroed = entry.parameter.detach().clone()
                entry.by_channel(zeroed)[places] = 0
                setattr(entry.owner, entry.leaf, nn.Parameter(zeroed))
