"""What a pruning method is: how the forward sees a weight, what happens after a step, which entries finally go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from idp_deploy.errors import UsageError
from idp_deploy.pruning.schedule import Schedule
from idp_deploy.pruning.sites import Site


class Method:
    """Base: the forward multiplies by the current magnitude mask, straight through nothing.

    The pruner sets `site.zeros` from the schedule before each `update`, freezes `hard_mask` at the end, and counts.
    Every method therefore ends at exactly the same number of zeros.
    """

    options: ClassVar[Mapping[str, Any]] = {}  # name → default; anything else is refused

    def __init__(self, sites: Sequence[Site], schedule: Schedule, seed: int, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            known = ", ".join(sorted(self.options)) or "none"
            raise UsageError(f"method option '{unknown[0]}' is unknown", way_out=f"known are {known}")
        self.sites, self.schedule, self.seed = sites, schedule, seed
        self.settings: dict[str, Any] = {**self.options, **options}

    @staticmethod
    def masked(site: Site, w: Tensor) -> Tensor:
        """ŵ, what the layer computes with; differentiable in w."""
        return w * site.state["mask"]

    def update(self, site: Site, step: int) -> None:
        """After an optimizer step (and once before the first one) of the ramp."""
        raise NotImplementedError

    def hard_mask(self, site: Site) -> Tensor:
        """Bool mask with exactly `site.zeros` False entries."""
        return site.magnitude_mask()
