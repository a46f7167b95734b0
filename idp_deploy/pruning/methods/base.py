"""What a pruning method is: how the forward sees a weight, what happens after a step, which entries finally go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError
from idp_deploy.masks import NM, Block, Channel, Pattern, is_transformed
from idp_deploy.pruning.schedule import Schedule, Shape
from idp_deploy.pruning.sites import Site

Forward = Callable[[Site, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a method that ranks weights before training may look at."""

    module: nn.Module
    example_inputs: tuple[Any, ...] | None = None
    loss: Callable[[], Tensor] | None = None  # of the module on some training data, differentiable


class Method:
    """Base of every method. A subclass is a rule; exactness is the pruner's.

    The pruner sets `site.zeros` from the schedule before each `update`, takes `hard_mask` at the end, and counts: every
    method ends at exactly the same number of zeros.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}  # name → default; anything else is refused
    ramp: ClassVar[Shape] = "cubic"
    timing: ClassVar[Mapping[str, float]] = {}  # defaults of the schedule that belong to the method
    training: ClassVar[Mapping[str, Any]] = {}  # defaults of the training loop that belong to the method
    pattern: ClassVar[type[Pattern] | None] = None  # the only pattern it makes sense for
    shardable: ClassVar[bool] = True  # whether it can do with the weights of one layer at a time
    trains: ClassVar[bool] = True  # whether weights get gradients
    by_size: ClassVar[bool] = False  # whether what it keeps can be told from the trained weights alone

    def __init__(self, sites: Sequence[Site], schedule: Schedule, seed: int, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            known = ", ".join(sorted(self.options)) or "none"
            raise UsageError(f"option '{unknown[0]}' is unknown to method {self.name}", way_out=f"it knows {known}")
        for site in sites:
            if self.pattern is not None and type(site.pattern) is not self.pattern:
                wanted = {Block: "block:4x1", Channel: "channel", NM: "2:4"}.get(self.pattern, "unstructured")
                raise UsageError(
                    f"method {self.name} prunes by another pattern than {site.pattern.name}",
                    way_out=f"use --pattern {wanted}",
                )
        self.sites, self.schedule, self.seed = sites, schedule, seed
        self.order = {site.name: index for index, site in enumerate(sites)}
        self.settings: dict[str, Any] = {**self.options, **options}

    def begin(self, surroundings: Surroundings) -> None:
        """Once, before the first step."""

    def update(self, site: Site, step: int) -> None:
        """After an optimizer step of the ramp, and once before the first."""
        raise NotImplementedError

    def forward(self, site: Site) -> Forward | None:
        """How the layer sees its weight while `site.state` is as it is; None: as it is."""
        return masked_by_state if "mask" in site.state else None

    def after(self, step: int) -> None:
        """After every site was updated."""

    def settle(self) -> None:
        """The last word on `site.zeros`, which must keep their sum, before masks become exact."""

    def hard_mask(self, site: Site) -> Tensor:
        """Bool mask with exactly `site.zeros` False entries: the one trained on where it fits, else by size."""
        mask: Tensor | None = site.state.get("mask")
        if mask is None or int((~mask).sum()) != site.zeros:
            mask = site.magnitude_mask()
        return mask

    def baked(self, site: Site) -> Tensor | None:
        """What kept entries become when the mask turns hard, where that is not the weight itself."""
        return None


class _Masked(torch.autograd.Function):
    """ŵ = mask·w. Backward leaves the dense ∂L/∂ŵ (times w where `scored`) in `site.state["seen"]`.

    The gradient of w is masked, or dense for a straight-through estimator, plus `pull`·(1 − mask)·w.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, site: Site, keep: str, scored: bool, pull: float) -> Tensor:
        ctx.save_for_backward(w)
        ctx.site, ctx.mask, ctx.keep, ctx.scored, ctx.pull = site, site.state["mask"], keep, scored, pull
        return w * site.state["mask"]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:  # type: ignore[override]
        (w,) = ctx.saved_tensors
        seen = grad * w if ctx.scored else grad
        state = ctx.site.state
        # a second backward before the optimizer steps adds up, as gradients do
        state["seen"] = state["seen"] + seen if "seen" in state else seen.clone()
        if ctx.keep == "none":
            return None, None, None, None, None
        through = grad * ctx.mask if ctx.keep == "masked" else grad
        if ctx.pull:
            through = through + ctx.pull * w * ~ctx.mask
        return through, None, None, None, None


def masked_by_state(site: Site, w: Tensor) -> Tensor:
    """The plain forward: the mask in `site.state`, no gradient to what it hides."""
    return w * site.state["mask"]


def watched(
    site: Site,
    w: Tensor,
    *,
    keep: Literal["masked", "dense", "none"] = "masked",
    scored: bool = False,
    pull: float = 0.0,
) -> Tensor:
    """The masked forward whose backward also shows what the hidden entries would have received.

    Raises:
        UsageError: torch.func takes the derivative, and shows none to anybody.
    """
    if is_transformed():
        raise UsageError(
            f"the method that prunes '{site.name}' looks at its gradient, and torch.func (grad, vmap, …) shows it none",
            way_out="take the gradient by loss.backward(), or prune by another method, such as idp or gmp",
        )
    return _Masked.apply(w, site, keep, scored, pull)


def take_seen(site: Site) -> Tensor | None:
    """What backward left since the last step, the mean over processes; None where there was no backward."""
    seen = site.state.pop("seen", None)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if seen is not None and distributed and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(seen)
        seen /= torch.distributed.get_world_size()
    return seen
