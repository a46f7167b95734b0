"""Where a mask meets a layer: during a forward the layer reads the masked weight, otherwise it is as it was.

The masked weight is put into the layer's instance dictionary, which Python looks up before `nn.Module` asks for the
parameter. So nothing is added to the state dict, the parameter stays dense and trainable, and a forward that runs
twice (gradient checkpointing) masks twice.

A deep copy or a pickle of the layer is plain: its weight holds what the mask made of it at that moment.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.masks import APART, Pattern, Prunable, smallest_kept_and_largest_pruned
from idp_deploy.pruning.copies import Copy

REPLACING = "replace, wrap, tie or untie layers before Pruner(model), or detach() it and make another one afterwards"


@dataclass(eq=False)
class Site:
    """The pruning state of one weight."""

    name: str
    owner: nn.Module  # one that holds the weight as its parameter
    weight: Tensor  # that parameter, or all of it where processes hold parts
    where: Prunable
    pattern: Pattern
    budget: int = 0  # zeros at the end
    zeros: int = 0  # zeros now
    mask: Tensor | None = None  # once frozen (or in the middle of `hardened`), what the forward uses
    masked: Callable[[Site, Tensor], Tensor] | None = None  # the method's forward; None: dense
    state: dict[str, Any] = field(default_factory=dict)  # the method's own: t, τ, scores, …
    last: dict[str, Any] = field(default_factory=dict)  # the method's, where the mask froze and nothing trained since
    still: bool = False  # whether the weight itself no longer learns
    seen: bool = False  # whether a forward has read it
    learns: bool = False  # whether one that gradients go through has
    peers: Sequence[Site] = ()  # with itself: whose output channels are the same channels of the network
    normed: bool = False  # whether norms follow its channels
    copies: list[Copy] = field(default_factory=list)  # of the weight, in deep copies of the model
    owners: list[nn.Module] = field(default_factory=list)  # the layers with its mask, in the order of `where.places`
    shape: tuple[int, ...] = field(init=False)  # of the weight that its mask is made for

    def __post_init__(self) -> None:
        self.shape = tuple(self.weight.shape)

    def live(self) -> nn.Parameter:
        """The parameter as the module holds it now: sharding and loading may put another object in its place."""
        return self.held(self.owner, self.where.places[0].leaf)

    def held(self, owner: nn.Module, leaf: str) -> nn.Parameter:
        """The parameter of one layer that holds it.

        Raises:
            UsageError: the layer holds it no longer.
        """
        if (parameter := owner._parameters.get(leaf)) is None:
            raise UsageError(
                f"'{self.name}' is no parameter of its layer any more: since prepare() a parametrization, weight norm "
                "or torch.nn.utils.prune computes it from others",
                way_out="do without it, or make the weight one piece again before prepare()",
            )
        return parameter

    def read(self, weight: Tensor) -> Tensor:
        """The weight as the layer sees it."""
        if self.mask is not None:
            return (weight.detach() if self.still else weight) * self.mask
        return weight if self.masked is None else self.masked(self, weight)

    def threshold(self) -> Tensor:
        """t of the pattern at the current number of zeros."""
        if len(self.peers) < 2:
            return self.pattern.threshold(self.weight.detach(), self.zeros, self.where.output_axis, near=self._near())
        units = self.zeros // self.pattern.unit(tuple(self.weight.shape), self.where.output_axis)
        kept, gone = smallest_kept_and_largest_pruned(self.sizes(), units)
        return (kept + gone) / 2

    def sizes(self) -> Tensor:
        """What t is compared with, a unit each; of channels with peers in this weight's own scale."""
        return self._scores() if len(self.peers) < 2 else self.ranking().sqrt() * _rms(self._scores())

    def rows_and_threshold(self) -> tuple[Tensor, Tensor]:
        """Coordinates of what the hard mask keeps as best of its row, and t among the others; for single entries."""
        axis, shape, scores = self.where.output_axis, tuple(self.weight.shape), self._scores()
        best = self.pattern.best_of_rows(scores, shape, self.zeros, axis)
        others = scores.reshape(-1).index_fill_(0, best, torch.inf)  # the scores are a copy of their own
        kept, gone = smallest_kept_and_largest_pruned(others, self.zeros, self._near())
        t = torch.where(kept.isinf(), gone, (kept + gone) / 2)
        return torch.stack(torch.unravel_index(best, shape)), t

    def elsewhere(self) -> Tensor | None:
        """What peers add to the squared score of each channel, in this weight's own scale; (channels, 1)."""
        if len(self.peers) < 2:
            return None
        own = self._scores()
        return (self.ranking() * _rms(own).square() - own.square()).unsqueeze(-1)

    def ranking(self) -> Tensor:
        """What the units are ordered by: their scores; for channels with peers the mean of squared relative scores."""
        if len(self.peers) < 2:
            return self._scores()
        relative = [peer._scores() / _rms(peer._scores()) for peer in self.peers]
        return torch.stack([r.square() for r in relative]).mean(0)

    def magnitude_mask(self) -> Tensor:
        """The exact hard mask by size, at the current number of zeros."""
        axis = self.where.output_axis
        return self.pattern.mask_by(self.ranking(), tuple(self.weight.shape), self.zeros, axis, floor=True)

    @property
    def led(self) -> bool:
        """Whether another one, whose channels are the same, has chosen already which of them go."""
        return len(self.peers) > 1 and self.peers[0] is not self and "mask" in self.peers[0].state

    def mask_by(self, entry_scores: Tensor) -> Tensor:
        """The exact hard mask at the current number of zeros by scores of w's shape, the largest kept.

        Among peers the first one decides.
        """
        axis, shape = self.where.output_axis, tuple(self.weight.shape)
        if self.led:
            first = self.peers[0]
            alive = first.pattern.unit_scores(first.state["mask"].float(), first.where.output_axis)
            return self.pattern.mask_by(alive, shape, self.zeros, axis)
        return self.pattern.mask_by(self.pattern.unit_scores(entry_scores, axis), shape, self.zeros, axis, floor=True)

    def _near(self) -> float:
        """The t of before, next to which the new one is found sooner; 0 where looking at it would cost more."""
        t = self.state.get("t")
        return float(t) if t is not None and t.dim() == 0 and t.device.type == "cpu" else 0.0

    def _scores(self) -> Tensor:
        return self.pattern.scores(self.weight, self.where.output_axis)


def _rms(scores: Tensor) -> Tensor:
    return scores.square().mean().sqrt().clamp_min(torch.finfo(scores.dtype).tiny)


class _Enter:
    """Forward pre-hook of one reading module."""

    def __init__(self, site: Site, owner: nn.Module, leaf: str) -> None:
        self.site, self.owner, self.leaf = site, owner, leaf
        self._sent: Tensor | None = None  # on its way to another process, which maps the memory and does not copy it

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.site.seen, self._sent = True, None
        self.site.learns |= torch.is_grad_enabled()
        weight = self.site.held(self.owner, self.leaf)
        if weight.shape != self.site.shape:
            raise UsageError(
                f"weight '{self.site.name}' is {tuple(weight.shape)} now, and was {self.site.shape} when its mask was "
                "made",
                way_out=f"{REPLACING}; sharding has to keep shapes, as torch.distributed.fsdp.fully_shard does",
            )
        masked = self.site.read(weight)
        self.owner.__dict__[self.leaf] = masked
        relist(self.owner, self.leaf, masked)

    def __reduce__(self) -> tuple[Any, ...]:
        weight = self.site.held(self.owner, self.leaf)
        self._sent = self.meaning(weight)
        return settle, (weight, self._sent, _Note(self.site))

    @torch.no_grad()
    def meaning(self, weight: nn.Parameter) -> Tensor | None:
        """What the layer computes with, where that is not the weight as it is."""
        if weight.shape != self.site.shape or type(weight) is not nn.Parameter:
            warnings.warn(
                f"a copy of weight '{self.site.name}' is dense: it was made from a part, and masks belong to the whole",
                IdpDeployWarning,
                stacklevel=2,
            )
            return None
        read = self.site.read(weight)
        return None if read is weight else read.detach()


class Leave:
    """Forward hook of the same module; runs after an exception too."""

    def __init__(self, owner: nn.Module, leaf: str) -> None:
        self.owner, self.leaf = owner, leaf

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.leaf in self.owner._parameters and self.owner.__dict__.pop(self.leaf, None) is not None:
            relist(self.owner, self.leaf, cast(Tensor, self.owner._parameters[self.leaf]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Nothing, ()


def relist(owner: nn.Module, leaf: str, weight: Tensor) -> None:
    """Recurrent layers pass their operator a list of weights; left alone they would make it, and on GPUs a copy of
    all weights, anew in each forward, and keep the masked ones in it afterwards."""
    if isinstance(owner, nn.RNNBase):
        index = owner._flat_weights_names.index(leaf)
        owner._flat_weights[index] = weight  # type: ignore[call-overload]
        owner._flat_weight_refs[index] = weakref.ref(cast(nn.Parameter, weight))


class Nothing:
    """What is left of a hook in a copy."""

    def __call__(self, *args: Any) -> None:
        """Does nothing."""


class _Note:
    """Tells a site of a copy of its weight; in another process there is nobody to tell."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __deepcopy__(self, memo: Any) -> _Note | None:
        return None if APART in memo else self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


@torch.no_grad()
def settle(weight: nn.Parameter, value: Tensor | None, note: _Note | None) -> Nothing:
    """Of a hook, in a copy: the copied weight takes the value that the mask gave it.

    In memory of its own: another process shares that of the weight with this one.
    """
    if value is not None:
        weight.data = value
    if note is not None and all(copy.weight() is not weight for copy in note.site.copies):
        note.site.copies.append(Copy(weight))
    return Nothing()


def still_soft(module: nn.Module) -> str:
    """The first weight of `module` that a Pruner still masks softly; "" where none is."""
    hooks = (hook for part in module.modules() for hook in part._forward_pre_hooks.values())
    return next((hook.site.name for hook in hooks if isinstance(hook, _Enter) and hook.site.mask is None), "")


def attach(module: nn.Module, site: Site) -> list[torch.utils.hooks.RemovableHandle]:
    """Make every layer that holds the site's weight read `site.read()`; the handles undo it.

    Raises:
        UsageError: another pruner's masks are there already.
    """
    handles = []
    site.owners = [module.get_submodule(place.owner) for place in site.where.places]
    for place, owner in zip(site.where.places, site.owners, strict=True):
        reader = module.get_submodule(place.reader)
        for hook in reader._forward_pre_hooks.values():
            if isinstance(hook, _Enter) and hook.site is not site and hook.owner is owner and hook.leaf == place.leaf:
                raise UsageError(
                    f"weight '{site.name}' carries the mask of another Pruner already, and two would multiply",
                    way_out="finalize() or detach() the other one first; a callback's is callback.pruner",
                )
        handles.append(reader.register_forward_pre_hook(_Enter(site, owner, place.leaf)))
        handles.append(reader.register_forward_hook(Leave(owner, place.leaf), always_call=True))
    return handles
