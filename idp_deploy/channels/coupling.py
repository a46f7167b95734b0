"""Which output channels can only go together: those added to each other, and what follows them one to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from idp_deploy.channels.recurrent import Hidden
from idp_deploy.channels.tracing import (
    NORMS,
    TRANSPOSED,
    Channels,
    half,
    is_held,
    names_of,
    shares_weights,
    traced,
)
from idp_deploy.channels.trying import trial
from idp_deploy.channels.walking import is_grouped
from idp_deploy.errors import ConversionError
from idp_deploy.masks import copied

# a channel that is gone changes what is left
_OVER_CHANNELS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
UNTRACED = "nothing tells which channels follow its own"


@dataclass(frozen=True)
class Coupled:
    """Layers some of whose output channels are the same channels of the network.

    `weights` are the prunable ones among them; `followers` are parameters with one entry, or one filter, a channel
    that only serve it: biases, norms, depthwise convolutions. `fixed` says why channels cannot be removed, if so.
    `readers` are the layers whose inputs they are, with their share of these inputs: below 1 behind a concatenation.
    `channels` says of weights and followers, by name, which of the `many` channels each of their entries belongs to,
    counted from 0; −1: to none, as behind a concatenation. Of a weight every one is met, each equally often: twice
    where two halves of it go together. `axes` says along which axis. `grouped`: a convolution in groups, of several
    channels each, makes or reads them.
    """

    weights: tuple[str, ...]
    followers: tuple[str, ...]
    fixed: str = ""
    readers: Mapping[str, float] = field(default_factory=dict)
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    many: int = 0
    grouped: bool = False

    def share(self, name: str) -> float:
        """Of the entries of a weight or follower: those that belong to these channels."""
        places = self.channels[name]
        return sum(place >= 0 for place in places) / len(places)


def couple(module: nn.Module, example_inputs: tuple[Any, ...], prunable: Collection[str]) -> list[Coupled]:
    """Trace `module` once (a copy of it) and group its output channels.

    What may go is tried: some channels of every group are taken out of the copy, and its outputs have to be those that
    zeros in their place give.

    Args:
        prunable: names of the weights that count as `weights`; all else is a follower.

    Raises:
        ConversionError: the module cannot be traced.
    """
    module = copied(module).cpu().eval()
    names, shared = names_of(module), shares_weights(module)
    try:
        with traced(module, example_inputs) as channels:
            coupled = {}
            for root, group in channels.groups():
                if isinstance(group, str):
                    one = Coupled(tuple({f"{root}.weight"} & set(prunable)), (), group)
                else:
                    one = _coupled(channels, group, names, shared, prunable)
                if one.weights:
                    coupled[root] = one
            free = {root: half(channels.whole(root)) for root, one in coupled.items() if not one.fixed}
            for root, reason in trial(channels, free, example_inputs).refused.items():
                coupled[root] = replace(coupled[root], fixed=reason)
    except Exception as error:
        raise ConversionError(
            f"the channels of this model cannot be traced: {error}", way_out="use another pattern than channel"
        ) from error
    known = {name for one in coupled.values() for name in one.weights}
    return [*coupled.values(), *(Coupled((name,), (), UNTRACED) for name in prunable if name not in known)]


def _coupled(
    channels: Channels,
    group: Any,
    names: Mapping[Any, str],
    shared: Collection[nn.Module],
    prunable: Collection[str],
) -> Coupled:
    weights: list[str] = []
    followers: list[str] = []
    fixed = ""
    readers: dict[str, float] = {}
    families: dict[int, int] = {}
    for speaker in group.with_it.values():
        families.setdefault(speaker, len(families))
    places: dict[str, tuple[int, ...]] = {}
    axes: dict[str, int] = {}
    grouped = False
    for item in group:
        dependency, indices = item
        owner = dependency.target.module
        grouped = grouped or is_grouped(owner)
        if owner in shared or (isinstance(owner, Hidden) and owner.of[0] in shared):
            fixed = fixed or "a layer of theirs shares its weight with another one"
        if isinstance(owner, TRANSPOSED) and is_grouped(owner):
            fixed = fixed or "a transposed convolution in groups keeps its channels"
        if is_held(channels, dependency):
            fixed = fixed or "its channels meet what an LSTM projects"
            continue
        if not channels.makes(dependency):
            if owner in names:
                readers[names[owner]] = readers.get(names[owner], 0.0) + channels.share_read(item)
            continue
        if not dependency.target.outputs:
            fixed = "its channels are the model's outputs"
        if isinstance(owner, nn.Embedding):
            fixed = fixed or "its channels meet those of an embedding"
            continue
        if isinstance(owner, _OVER_CHANNELS):
            fixed = fixed or "a norm takes the mean over its channels"
        if isinstance(owner, NORMS) and not owner.affine:
            fixed = fixed or "a norm without weights makes something of zeros"
        for entry in channels.entries(dependency):
            name, axis, extent = entry.name, entry.axis, entry.parameter.shape[entry.axis]
            entries = extent // entry.gates
            met = dict(zip(indices, (families[group.with_it[channel]] for channel in item.root_idxs), strict=True))
            places[name] = tuple(met.get(place % entries, -1) for place in range(extent))
            if max(met) >= entries:
                fixed = fixed or "the tracer takes another axis for them"
            elif name in prunable:
                fixed = fixed or _uneven(places[name], families)
            axes[name] = axis
            (weights if name in prunable else followers).append(name)
    if len(families) == 1 < len(group.with_it):
        fixed = fixed or "any channel of it takes all others with it"
    names_made = tuple(dict.fromkeys(weights)), tuple(dict.fromkeys(followers))
    return Coupled(*names_made, fixed, readers, places, axes, len(families), grouped)


def _uneven(places: Sequence[int], families: Mapping[int, int]) -> str:
    """Why a weight with these channels cannot lose them as units of one size."""
    counted = Counter(places)
    if counted.pop(-1, 0) or len(counted) < len(families):
        return "its channels are only a part of what follows"
    return "a channel of it takes others with it, not always as many" if len(set(counted.values())) > 1 else ""
