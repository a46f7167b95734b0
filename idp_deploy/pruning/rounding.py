"""Budgets in what can really go: whole units, as many in layers that go together, and channels in whole vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from idp_deploy.masks import Channel
from idp_deploy.pruning.layers import Layer
from idp_deploy.widths import vector

NEAR = 0.01  # of all entries: a target missed by more is worth narrower steps
VECTORS = (16, 8, 4, 2, 1)  # the widest that is tried, in this order


@dataclass(frozen=True)
class Group:
    """Layers that lose the same number of units, as one that loses them all at once.

    Once anything goes, what stays is a multiple of `step` units: 50 channels of which fours stay lose 2, 6, 10 …

    >>> import torch
    >>> group = Group("fifty", [Layer("fifty", torch.randn(50, 3), Channel())], 4)
    >>> [group.floor(3 * channels) for channels in (1, 2, 5, 6)], group.up(6), group.down(6), group.most({"fifty": 147})
    ([0, 6, 6, 18], 18, 0, 138)
    """

    name: str
    layers: Sequence[Layer]
    step: int = 1

    @property
    def unit(self) -> int:
        """Entries that go at once, in all of its layers."""
        return sum(layer.unit for layer in self.layers)

    @property
    def odd(self) -> int:
        """Units beyond the largest multiple of the step."""
        return self.layers[0].entries // self.layers[0].unit % self.step

    def floor(self, zeros: float) -> int:
        """The most that can go of `zeros`."""
        units = math.floor(zeros / self.unit + 1e-9) - self.odd
        return (self.odd + units // self.step * self.step) * self.unit if units >= 0 else 0

    def up(self, zeros: int) -> int:
        """The next larger number that can go."""
        return zeros + (self.step if zeros or not self.odd else self.odd) * self.unit

    def down(self, zeros: int) -> int:
        """The next smaller one; none goes where none does."""
        return max(0, zeros - self.step * self.unit)

    def most(self, caps: Mapping[str, int]) -> int:
        """What can go of it at most, where each layer can lose its cap."""
        return self.floor(min(caps[layer.name] // layer.unit for layer in self.layers) * self.unit)


def whole_units(
    layers: Sequence[Layer],
    zeros: Mapping[str, float],
    total: int,
    caps: Mapping[str, int],
    multiple: int | None = None,
) -> dict[str, int]:
    """Zeros by weight name, as near to `zeros`, and their sum as near to `total`, as whole units allow.

    Args:
        zeros: wanted of each layer, in fractions of entries.
        caps: the most of each layer.
        multiple: what the channels that stay are a multiple of; None: of `vector(channels)`, or of less where that
            would miss the total by more than a hundredth of the entries.
    """
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(f"group {layer.group}" if layer.group else layer.name, []).append(layer)
    entries = sum(layer.entries for layer in layers)
    budgets: dict[str, int] = {}
    for widest in VECTORS if multiple is None else (multiple,):
        groups = [Group(name, members, _step(members[0], widest, multiple)) for name, members in found.items()]
        budgets = _nearest(groups, zeros, total, caps)
        if abs(total - sum(budgets.values())) <= NEAR * entries:
            break
    return {
        layer.name: budgets[name] // sum(one.unit for one in members) * layer.unit
        for name, members in found.items()
        for layer in members
    }


def _step(layer: Layer, widest: int, multiple: int | None) -> int:
    if not isinstance(layer.pattern, Channel):
        return 1
    return multiple or min(widest, vector(layer.entries // layer.unit, layer.pattern.each))


def _nearest(
    groups: Sequence[Group], zeros: Mapping[str, float], total: int, caps: Mapping[str, int]
) -> dict[str, int]:
    """Rounded down, then steps of the largest remainders until the sum is as near to `total` as they allow."""
    most = {group.name: group.most(caps) for group in groups}
    wanted = {group.name: sum(zeros[layer.name] for layer in group.layers) for group in groups}
    budgets = {group.name: group.floor(min(max(wanted[group.name], 0.0), float(most[group.name]))) for group in groups}
    missing = total - sum(budgets.values())
    by_remainder = sorted(
        groups, key=lambda group: (budgets[group.name] - wanted[group.name]) / (group.unit * group.step)
    )
    while missing:
        moved = False
        for group in by_remainder:
            now = budgets[group.name]
            then = group.up(now) if missing > 0 else group.down(now)
            if then != now and then <= max(now, most[group.name]) and abs(then - now) < 2 * abs(missing):
                budgets[group.name], missing, moved = then, missing - (then - now), True
            if not missing:
                break
        if not moved:
            break
    return budgets
