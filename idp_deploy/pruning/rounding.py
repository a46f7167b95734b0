"""Budgets in what can really go: whole units, as many in layers that go together, and channels in whole vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from idp_deploy.errors import UsageError
from idp_deploy.masks import Channel
from idp_deploy.pruning.layers import Layer
from idp_deploy.widths import FEWEST, vector

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
    def many(self) -> int:
        """Units of each of its layers."""
        return self.layers[0].entries // self.layers[0].unit

    @property
    def odd(self) -> int:
        """Units beyond the largest multiple of the step."""
        return self.many % self.step

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

    Raises:
        UsageError: with such a multiple no layer could lose any.
    """
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(f"group {layer.group}" if layer.group else layer.name, []).append(layer)
    entries = sum(layer.entries for layer in layers)
    budgets: dict[str, int] = {}
    for widest in VECTORS if multiple is None else (multiple,):
        groups = [Group(name, members, _step(members, widest, multiple)) for name, members in found.items()]
        _refuse_wide(groups, multiple)
        budgets = _nearest(groups, zeros, total, caps)
        if abs(total - sum(budgets.values())) <= NEAR * entries:
            break
    return {
        layer.name: budgets[name] // sum(one.unit for one in members) * layer.unit
        for name, members in found.items()
        for layer in members
    }


def _step(layers: Sequence[Layer], widest: int, multiple: int | None) -> int:
    channels = [layer.pattern for layer in layers if isinstance(layer.pattern, Channel)]
    beside = [pattern.stretch for pattern in channels]
    if not beside:
        return 1
    if multiple is not None:
        return multiple // math.gcd(multiple, *beside)
    many, grouped = layers[0].entries // layers[0].unit, any(pattern.grouped for pattern in channels)
    whole = vector(many, min(beside), grouped=grouped)
    return max(min(widest, whole), whole // 2 if grouped else 1)  # narrower ones cost groups more than they save


def _refuse_wide(groups: Sequence[Group], multiple: int | None) -> None:
    narrowed = [group for group in groups if isinstance(group.layers[0].pattern, Channel)]
    if multiple is None or not narrowed or any(group.step < group.many for group in narrowed):
        return
    widest = max(narrowed, key=lambda group: group.many)
    layer = widest.layers[0]
    apart = layer.weight.shape[layer.output_axis] // (beside := widest.many * layer.pattern.stretch)  # type: ignore[attr-defined]
    raise UsageError(
        f"option multiple is {multiple}, and no layer could lose any channel: the widest, '{layer.name}', has {beside}"
        + (f" in each of {apart} parts" if apart > 1 else ""),
        way_out=f"give {FEWEST}, 8 or 16, as runtimes compute them, or leave it out",
    )


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
