"""What follows channels one to one: norms, biases and depthwise filters, which live and die with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idp_deploy.pruning.sites import Site


@dataclass(frozen=True, eq=False)
class Part:
    """The entries of a follower that are behind one group of channels."""

    site: Site  # the first one of the layers that make these channels
    channels: Tensor  # (entries,) int64: the channel that each entry follows, −1: none of these

    def spread(self, values: Tensor) -> Tensor:
        """A value a channel → one an entry, 1 where it follows none of them."""
        padded = torch.cat([values, values.new_ones(1)])
        return padded[self.channels.to(values.device)]


@dataclass(frozen=True, eq=False)
class Follower:
    """One parameter behind channels that are pruned; behind a concatenation those of several groups."""

    name: str
    parameter: nn.Parameter
    parts: Sequence[Part]
    axis: int = 0  # along which it has an entry a channel

    @property
    def sites(self) -> list[Site]:
        """The first one of each group that it follows."""
        return [part.site for part in self.parts]

    def alive(self, parameter: Tensor, masks: Mapping[Site, Tensor] | None = None) -> Tensor:
        """Which entries live, to be multiplied by: behind a dead channel one would be a constant.

        Args:
            masks: hard masks that count in the place of the sites' own; without either all channels live.
        """
        lives = torch.ones(parameter.shape[self.axis], dtype=torch.bool, device=parameter.device)
        for part in self.parts:
            mask = (masks or {}).get(part.site, part.site.mask)
            if mask is not None:
                lives &= part.spread(living(part.site, mask)).to(lives.device)
        return self._along(lives, parameter)

    def gate(self, parameter: Tensor) -> Tensor | None:
        """What the parameter is multiplied by, an entry a channel; None while all channels are whole or hard."""
        gates = [(part, part.site.state.get("gate")) for part in self.parts if part.site.mask is None]
        found: Tensor | None = None
        for part, values in gates:
            if values is not None:
                gate = part.spread(values.reshape(-1))
                found = gate if found is None else found * gate
        return None if found is None else self._along(found, parameter).to(parameter.dtype)

    def _along(self, entries: Tensor, parameter: Tensor) -> Tensor:
        return entries.reshape([-1 if axis == self.axis else 1 for axis in range(parameter.dim())])


def living(site: Site, mask: Tensor) -> Tensor:
    """(channels,) bool: those of the site's channels that its mask keeps anything of."""
    return site.pattern.to_units(mask, site.where.output_axis).flatten(1).any(1)
