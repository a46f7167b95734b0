"""From one layer's channels to all that go with them, along torch-pruning's graph.

torch-pruning's own walk knows a place that it has been to by the whole list of indices it came with: where a product
of two tensors leads back to a reshape, which spreads every index over several, it never ends. Here every index of a
place is met once, and one that a layer does not have ends the walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

_LOST = "the tracer loses its way between them and the channels of what follows"


class LostError(Exception):
    """The graph does not say what goes with these channels."""


def walk(graph: Any, layer: nn.Module, handler: Any, indices: Sequence[int], most: int) -> Any:
    """A group of torch-pruning for channels `indices` of `layer`: each entry's `idxs` in the order of its `root_idxs`.

    Its `with_it` says of each of these channels which one speaks for all that go with it.

    Args:
        most: channels that no tensor between the layers has more than.

    Raises:
        LostError: it leads to channels that a layer does not have.
    """
    from torch_pruning._helpers import GroupItem, _HybridIndex
    from torch_pruning.dependency.dependency import Dependency
    from torch_pruning.dependency.group import Group

    node = graph.module2node[layer]
    speaks = {index: index for index in indices}

    def speaker(channel: int) -> int:
        while speaks[channel] != channel:
            speaks[channel] = channel = speaks[speaks[channel]]
        return channel

    # (node, handler) → the dependency that came first, and index → channel of the layer where the walk begins
    met: dict[tuple[Any, Any], tuple[Any, dict[int, int]]] = {}
    begin = Dependency(handler, handler, source=node, target=node)
    stack = [(begin, [_HybridIndex(idx=index, root_idx=index) for index in indices])]
    while stack:
        dependency, pairs = stack.pop()
        target, handler = dependency.target, dependency.handler
        pairs = _in_every_part(_parts(target, graph.is_out_channel_pruning_fn(handler)), pairs)
        _, known = met.setdefault((target, handler), (dependency, {}))
        fresh = list({pair.idx: pair for pair in reversed(pairs) if pair.idx not in known}.values())[::-1]
        limit = _extent(graph, target, handler) or most
        if any(not 0 <= pair.idx < limit for pair in fresh):
            raise LostError(_LOST)
        known.update((pair.idx, pair.root_idx) for pair in fresh)
        for pair in pairs:
            if (first := known[pair.idx]) != pair.root_idx:
                speaks[speaker(pair.root_idx)] = speaker(first)
        for further in target.dependencies if fresh else ():
            if further.is_triggered_by(handler):
                carried = fresh
                for mapping in further.index_mapping:
                    spread = 1 if mapping is None or mapping.reverse else getattr(mapping, "_stride", 1)
                    if len(carried) * spread > most:  # by reshapes, round and round
                        raise LostError(_LOST)
                    carried = _mapped(mapping, carried) if mapping is not None else carried
                if carried:
                    stack.append((further, carried))
    group = Group()
    order = {index: place for place, index in enumerate(indices)}
    for dependency, known in met.values():
        found = sorted(known.items(), key=lambda pair: (order.get(pair[1], -1), pair[0]))
        item = GroupItem(dep=dependency, idxs=[index for index, _ in found])
        item.root_idxs = [channel for _, channel in found]
        group.items.append(item)
    group._DG = graph
    group.with_it = {index: speaker(index) for index in indices}
    return group


def _parts(node: Any, made: bool) -> tuple[int, int]:
    """Of a place whose channels go from every part or none: how many parts there are, and the channels of each.

    A split into equal parts is counted anew in every call, and a grouped convolution has as many in every group.
    """
    sizes = getattr(node.module, "split_sizes", None) or [0]
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return len(sizes), sizes[0]
    if is_grouped(node.module):
        channels = node.module.out_channels if made else node.module.in_channels
        return node.module.groups, channels // node.module.groups
    return 1, 0


def is_grouped(layer: Any) -> bool:
    """A convolution of several groups with several channels each; depthwise ones lose whole groups."""
    groups = getattr(layer, "groups", 1)
    return isinstance(groups, int) and 1 < groups < getattr(layer, "in_channels", 1)


def _in_every_part(parts: tuple[int, int], pairs: list[Any]) -> list[Any]:
    """What one part loses every part loses."""
    from torch_pruning._helpers import _HybridIndex

    many, size = parts
    if many < 2:
        return pairs
    first = {pair.idx % size: pair.root_idx for pair in reversed(pairs)}
    beside = [
        _HybridIndex(idx=place + part * size, root_idx=channel)
        for place, channel in first.items()
        for part in range(many)
    ]
    return [*pairs, *beside]


def _mapped(mapping: Any, pairs: list[Any]) -> list[Any]:
    try:
        found: list[Any] = mapping(pairs)
    except (ZeroDivisionError, IndexError) as error:  # the tracer could not count the channels of that operator
        raise LostError(_LOST) from error
    if any(pair.root_idx is None for pair in found):  # heads that queries share
        raise LostError(_LOST)
    return found


def widest(graph: Any) -> int:
    """Of all layers' channels together."""
    total = 0
    for node in graph.module2node.values():
        pruner = graph.get_pruner_of_module(node.module)
        total += sum(_extent(graph, node, end) or 0 for end in (pruner.prune_out_channels, pruner.prune_in_channels))
    return total


def _extent(graph: Any, node: Any, handler: Any) -> int | None:
    """How many channels a layer has where `handler` takes them away; None for an operator."""
    from torch_pruning.ops import OPTYPE

    if node.type in (OPTYPE.OUTPUT, OPTYPE.ELEMENTWISE):  # the first says its second axis, whatever it is
        return None
    made = graph.is_out_channel_pruning_fn(handler)
    return graph.get_out_channels(node) if made else graph.get_in_channels(node)  # type: ignore[no-any-return]
