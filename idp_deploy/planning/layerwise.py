"""Which layers lose channels, which lose single weights, and how many: the least noise within a time.

Every group of coupled channels may be narrowed, and every layer that sparse kernels run may be thinned instead. For a
price λ of a millisecond the choices are nearly independent,

    choice = argmin  noise + λ · milliseconds − μ · zeros,

and are settled one group at a time until none moves; λ is the least at which the time is kept. μ is above 0 only where
the runtime goes sparse as a whole or not at all (XNNPACK: above two thirds of its 1×1 weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from idp_deploy.planning.layers import KEPT, ZEROS, Times
from idp_deploy.planning.noise import noise_of
from idp_deploy.widths import kept_channels

SWEEPS = 6
HALVINGS = 40

Sides = tuple[tuple[int, float], ...]  # groups, each with its share of the channels: several behind a concatenation


@dataclass(frozen=True, eq=False)
class Weight:
    """One prunable weight."""

    name: str  # of the parameter
    layer: str  # of the module, which is its row in the times
    entries: int
    loud: float
    lost: np.ndarray  # by place in ZEROS
    made_by: Sides = ()  # whose channels are its outputs; those of none stay
    read_from: Sides = ()  # whose channels are its inputs
    thins: bool = False  # whether sparse kernels run it
    counts: bool = False  # towards the zeros without which the runtime goes on with dense kernels


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that go together."""

    channels: int
    layers: Mapping[str, float]  # whose outputs they are, depthwise ones among them, and which share of these
    readers: Mapping[str, float]  # whose inputs they are, and which share of these
    lost_out: Mapping[str, np.ndarray] = field(default_factory=dict)  # weight → by place in KEPT
    lost_in: Mapping[str, np.ndarray] = field(default_factory=dict)
    each: int = 1  # outputs of a layer that one of them is: a whole head, a row of each half
    grouped: bool = False  # whether a convolution in groups makes or reads them

    def kept(self, place: int) -> int:
        """How many stay at this place in KEPT."""
        return kept_channels(self.channels, KEPT[place], self.each, grouped=self.grouped)


@dataclass(frozen=True)
class Choice:
    """Places in KEPT by group and in ZEROS by weight."""

    kept: tuple[int, ...]
    zeros: tuple[int, ...]
    sparse: bool  # whether sparse kernels run


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a choice rests on."""

    weights: Sequence[Weight]
    groups: Sequence[Group]
    times: Times
    least_zeros: float = 0.0  # share of the weights that count, above which sparse kernels run

    @cached_property
    def _made(self) -> Mapping[str, Sides]:
        return sides([group.layers for group in self.groups])

    @cached_property
    def _read(self) -> Mapping[str, Sides]:
        return sides([group.readers for group in self.groups])

    @cached_property
    def _weight_at(self) -> Mapping[str, int]:
        return {weight.layer: i for i, weight in enumerate(self.weights)}

    @cached_property
    def _narrowness(self) -> Sequence[float]:
        """Of each weight: how many times narrower the groups on its sides are than the widest."""
        widest = max((group.channels for group in self.groups), default=1)
        around = ((*weight.made_by, *weight.read_from) for weight in self.weights)
        return [max((widest / self.groups[g].channels for g, _ in one), default=1.0) for one in around]

    # ── what a choice means ─────────────────────────────────────────────────────────────────────────────────────────

    def milliseconds(self, choice: Choice, layers: Sequence[str] | None = None) -> float:
        """Of these layers, or of everything."""
        total = self.times.rest if layers is None else 0.0
        for layer in self.times.narrow if layers is None else layers:
            if layer not in self.times.narrow:
                continue
            inputs, outputs = (self._place(choice, table, layer) for table in (self._read, self._made))
            weight = self._weight_at.get(layer)
            zeros = choice.zeros[weight] if weight is not None and choice.sparse else (0 if choice.sparse else None)
            total += self.times.of(layer, inputs, outputs, zeros)
        return total

    def noise(self, choice: Choice, weights: Sequence[int] | None = None) -> float:
        """Of these weights, or of all: what is left of a weight is what every cut leaves of it."""
        total = 0.0
        for i in range(len(self.weights)) if weights is None else weights:
            weight = self.weights[i]
            thin, name = 1 - weight.lost[choice.zeros[i]], weight.name
            out = sum(share * self.groups[g].lost_out[name][choice.kept[g]] for g, share in weight.made_by)
            read = sum(share * self.groups[g].lost_in[name][choice.kept[g]] for g, share in weight.read_from)
            wide = (1 - out) * (1 - read)
            alone = noise_of(weight.loud, thin)
            total += alone + (1.0 if choice.sparse else self._narrowness[i]) * (
                noise_of(weight.loud, thin * wide) - alone
            )
        return total

    def counted_zeros(self, choice: Choice) -> float:
        """Share of zeros in the weights that count, of what channels leave of them."""
        zeros = entries = 0.0
        for i, weight in enumerate(self.weights):
            if weight.counts:
                left = weight.entries * self._left(choice, weight)
                zeros, entries = zeros + left * ZEROS[choice.zeros[i]], entries + left
        return zeros / entries if entries else 0.0

    def _left(self, choice: Choice, weight: Weight) -> float:
        return _kept(choice, weight.made_by) * _kept(choice, weight.read_from)

    def _place(self, choice: Choice, table: Mapping[str, Sides], layer: str) -> int:
        kept = _kept(choice, table.get(layer, ()))
        return min(range(len(KEPT)), key=lambda place: abs(KEPT[place] - kept))

    # ── the best one ────────────────────────────────────────────────────────────────────────────────────────────────

    def dense(self, *, sparse: bool = False) -> Choice:
        """Nothing removed."""
        return Choice((0,) * len(self.groups), (0,) * len(self.weights), sparse)

    def within(self, milliseconds: float, *, sparse: bool) -> Choice | None:
        """The choice of least noise that takes no longer; None where even the fastest does."""
        low, high = 1e-6, 1e6
        best = self._settled(high, sparse)
        if best is None or self.milliseconds(best) > milliseconds:
            return None
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            found = self._settled(middle, sparse)
            if found is not None and self.milliseconds(found) <= milliseconds:
                high = middle
                best = found if self.noise(found) <= self.noise(best) else best
            else:
                low = middle
            if high / low < 1.01:
                break
        return self._filled(best, milliseconds)

    def _filled(self, choice: Choice, milliseconds: float) -> Choice:
        """The time that a price leaves over, given to whatever gains most by it, one step at a time."""
        while True:
            wider = [
                replace(choice, kept=(*choice.kept[:g], k - 1, *choice.kept[g + 1 :]))
                for g, k in enumerate(choice.kept)
                if k
            ]
            fuller = [self._thinned(choice, i, z - 1) for i, z in enumerate(choice.zeros) if z]
            fitting = [one for one in (*wider, *fuller) if self.milliseconds(one) <= milliseconds and self._runs(one)]
            if not fitting:
                return choice
            choice = min(fitting, key=self.noise)

    def _runs(self, choice: Choice) -> bool:
        return not choice.sparse or self.counted_zeros(choice) > self.least_zeros

    def fastest(self, *, sparse: bool) -> Choice | None:
        """Whatever the noise."""
        return self._settled(1e6, sparse)

    def _settled(self, price: float, sparse: bool) -> Choice | None:
        """The best choice at a price of time; with sparse kernels, at the least price of zeros that makes them run."""
        found = self._sweep(price, 0.0, sparse)
        if self._runs(found):
            return found
        low, high = 1e-9, 1e3 * max(1.0, price)
        best = None
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            found = self._sweep(price, middle, sparse)
            if self._runs(found):
                high, best = middle, found
            else:
                low = middle
            if high / low < 1.05:
                break
        return best

    def _sweep(self, price: float, per_zero: float, sparse: bool) -> Choice:
        choice = self.dense(sparse=sparse)
        entries = sum(weight.entries for weight in self.weights if weight.counts) or 1
        for _ in range(SWEEPS):
            before = choice
            for g, group in enumerate(self.groups):
                made = [i for i, weight in enumerate(self.weights) if g in dict(weight.made_by)]
                if sparse and any(self.weights[i].thins for i in made):
                    continue  # zeros are what makes these faster: without enough of them none runs sparse
                touched = [*made, *(i for i, weight in enumerate(self.weights) if g in dict(weight.read_from))]
                layers = (*group.layers, *group.readers)
                tried = [self._with(choice, g, k, made) for k in range(len(KEPT))]
                cost = [self.noise(one, touched) + price * self.milliseconds(one, layers) for one in tried]
                choice = tried[int(np.argmin(cost))]
            for i, weight in enumerate(self.weights if sparse else ()):
                narrowed = any(choice.kept[g] for g, _ in weight.made_by)
                if narrowed or not (weight.thins or weight.counts):
                    continue
                gain = per_zero * weight.entries / entries
                tried = [self._thinned(choice, i, z) for z in range(len(ZEROS))]
                cost = [
                    self.noise(one, [i]) + price * self.milliseconds(one, [weight.layer]) - gain * ZEROS[one.zeros[i]]
                    for one in tried
                ]
                choice = tried[int(np.argmin(cost))]
            if choice == before:
                break
        return choice

    @staticmethod
    def _with(choice: Choice, group: int, kept: int, made: Sequence[int]) -> Choice:
        """A weight that loses channels loses no single entries: it has one pattern."""
        zeros = tuple(0 if kept and i in made else z for i, z in enumerate(choice.zeros))
        return replace(choice, kept=(*choice.kept[:group], kept, *choice.kept[group + 1 :]), zeros=zeros)

    @staticmethod
    def _thinned(choice: Choice, weight: int, zeros: int) -> Choice:
        return replace(choice, zeros=(*choice.zeros[:weight], zeros, *choice.zeros[weight + 1 :]))


def sides(groups: Sequence[Mapping[str, float]]) -> dict[str, Sides]:
    """Name → the groups that have it.

    >>> sides([{"a": 1.0, "b": 0.25}, {"b": 0.75}])
    {'a': ((0, 1.0),), 'b': ((0, 0.25), (1, 0.75))}
    """
    found: dict[str, Sides] = {}
    for g, shares in enumerate(groups):
        for name, share in shares.items():
            found[name] = (*found.get(name, ()), (g, share))
    return found


def _kept(choice: Choice, groups: Sides) -> float:
    """Share of the channels that stay."""
    return 1.0 - sum(share * (1.0 - KEPT[choice.kept[g]]) for g, share in groups)
