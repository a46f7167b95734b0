"""What a forward counts channels by: heads that a reshape makes of them, and numbers that its modules keep.

Channels of one head go together, and then the modules' numbers have to follow: how many heads, how wide they are
together, how a split cuts them. Which of the numbers that fit are meant is tried, since `dim` may as well be the width
of the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from torch import nn

_ANCESTORS = 2  # modules above a layer whose numbers may be about its channels
_MOST_WAYS = 8
_LONGEST = 64  # of a list of numbers that says how something is cut


class Number(NamedTuple):
    """A module's own number, or several, and what it is to become."""

    owner: nn.Module
    name: str
    value: Any


def heads(shape: Sequence[int], into: Sequence[int], channels: int) -> tuple[int, int]:
    """How many heads a reshape makes of so many channels, and the width of each; (1, channels) where it does not.

    >>> heads((1, 17, 576), (1, 17, 3, 12, 16), channels=576)
    (12, 16)
    >>> heads((1, 64, 8, 8), (1, 64, 64), channels=64)
    (1, 64)
    """
    for axis, extent in reversed(list(enumerate(shape))):
        if extent != channels:
            continue
        before = prod(shape[:axis])
        for begin in range(len(into)):
            for end in range(begin + 1, len(into) + 1):
                if prod(into[:begin]) == before and prod(into[begin:end]) == channels:
                    factors = [factor for factor in into[begin:end] if factor > 1]
                    if len(factors) > 1:
                        return factors[-2], factors[-1]
    return 1, channels


def reshaped(node: Any) -> tuple[Sequence[int], Sequence[int]] | None:
    """The shapes before and after a reshape of torch-pruning's graph."""
    after = getattr(node.grad_fn, "_input_metadata", None)
    source = next((grad_fn for grad_fn, _ in getattr(node.grad_fn, "next_functions", ()) if grad_fn is not None), None)
    before = getattr(node.grad_fn, "_saved_self_sym_sizes", None)
    if before is None and (metadata := getattr(source, "_input_metadata", None)):
        before = metadata[0].shape
    return (tuple(before), tuple(after[0].shape)) if before is not None and after else None


def tie_heads(group: Any) -> dict[Any, tuple[int, int]]:
    """Let one channel speak for all of its head, at every reshape that a group with all channels meets.

    Returns:
        Reshape → how many heads, and of how many channels together.
    """
    from torch_pruning.ops import OPTYPE

    found: dict[Any, tuple[int, int]] = {}
    for item in group:
        node = item.dep.target
        if node.type != OPTYPE.RESHAPE or node in found or (shapes := reshaped(node)) is None:
            continue
        many, width = heads(*shapes, channels=max(item.idxs) + 1)
        if many < 2:
            continue
        found[node] = many, max(item.idxs) + 1
        spoken = {channel: group.with_it[channel] for channel in item.root_idxs}
        first: dict[int, int] = {}
        becomes: dict[int, int] = {}
        for index, channel in zip(item.idxs, item.root_idxs, strict=True):
            speaker = _last(becomes, spoken[channel])
            other = _last(becomes, first.setdefault(index // width, speaker))
            if other != speaker:
                becomes[speaker] = other
        group.with_it = {channel: _last(becomes, speaker) for channel, speaker in group.with_it.items()}
    return found


def _last(becomes: Mapping[int, int], speaker: int) -> int:
    while speaker in becomes:
        speaker = becomes[speaker]
    return speaker


def ways_to_count(
    owners: Sequence[nn.Module], many: Mapping[int, int], widths: Mapping[int, int], parts: Mapping[Any, Any]
) -> list[list[Number]]:
    """The numbers of `owners` that may have to follow, in the ways that are worth a trial; the first one: none.

    Args:
        many: how many heads there were → are left. widths: the same for channels of a layer. parts: for sizes of what
            a split cuts out, and all sizes of one.
    """
    meant: dict[str, Mapping[Any, Any]] = {"heads": many, "widths": {**widths, **parts}}
    counted = [
        (Number(owner, name, type(value)(left)), kind)
        for owner in owners
        for name, value in _numbers(owner)
        for kind, table in meant.items()
        if (left := table.get(key := tuple(value) if isinstance(value, list) else value, key)) != key
    ]
    heads_named, widths_named = ({number.name for number, its in counted if its == kind} for kind in meant)
    some_heads = [set(), *({name} for name in sorted(heads_named)), heads_named]
    some_widths = [set(), *({name} for name in sorted(widths_named)), widths_named]
    pairs = sorted(product(some_heads, some_widths), key=lambda pair: len(pair[0]) + len(pair[1]))
    ways: list[list[Number]] = []
    for names in pairs:  # the fewest first: one that changes nothing today would tomorrow
        way = [number for number, kind in counted if number.name in names[kind == "widths"]]
        if way not in ways:
            ways.append(way)
    return ways[: 1 + _MOST_WAYS]


def _numbers(owner: nn.Module) -> Iterator[tuple[str, Any]]:
    """As checkpoints keep them."""
    for name, value in vars(owner).items():
        several = value if type(value) in (tuple, list) else (value,)
        if 0 < len(several) <= _LONGEST and not name.startswith("_") and all(type(one) is int for one in several):
            yield name, value


def above(names: Mapping[nn.Module, str], model: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules that these layers are parts of."""
    paths: dict[str, None] = {}
    for layer in layers:
        path = names.get(layer, "")
        for _ in range(_ANCESTORS if path else 0):
            path = path.rpartition(".")[0]
            paths[path] = None
            if not path:
                break
    return [model.get_submodule(path) for path in paths]
