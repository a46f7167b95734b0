"""A prunable weight as allocation sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from idp_deploy.masks import Pattern


@dataclass(frozen=True, eq=False)
class Layer:
    """One prunable weight as allocation sees it."""

    name: str
    weight: Tensor
    pattern: Pattern = field(default_factory=Pattern)
    output_axis: int = 0
    gradient: Tensor | None = None  # of the loss on calibration data; only `sensitivity` asks for it
    gates: int = 1  # matrices stacked along the output axis
    share: float | None = None  # of zeros, where it is fixed for this weight
    group: str = ""  # layers of one group lose the same number of units

    @property
    def entries(self) -> int:
        """Weights in it."""
        return self.weight.numel()

    @property
    def unit(self) -> int:
        """Entries pruned together."""
        return self.pattern.unit(tuple(self.weight.shape), self.output_axis)

    @property
    def most_zeros(self) -> int:
        """Zeros that still leave one unit in every output row (in the layer, for channels)."""
        return self.entries - self.unit * max(1, self.pattern.floored_rows(self.weight.shape[self.output_axis]))
