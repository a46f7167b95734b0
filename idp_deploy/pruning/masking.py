"""The masks of one run: shared out among the weights, soft while these train, exact once frozen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from idp_deploy.errors import UsageError, warn
from idp_deploy.flow import Recipe, SoftMask
from idp_deploy.masks import SMALLEST_TEMPERATURE
from idp_deploy.pruning.allocation import allocate
from idp_deploy.pruning.copies import sample
from idp_deploy.pruning.following import Follower
from idp_deploy.pruning.layers import Layer
from idp_deploy.pruning.methods import Method, Surroundings
from idp_deploy.pruning.rounding import NEAR
from idp_deploy.pruning.schedule import Schedule
from idp_deploy.pruning.sharding import laid_as, whole
from idp_deploy.pruning.sites import Site

LOOKS = 4  # a step looks for NaN and inf in every fourth weight


class Hard(NamedTuple):
    """What hardening makes of one weight: True = kept, and the kept values where they change, too."""

    mask: Tensor
    baked: Tensor | None = None

    def of(self, weight: Tensor) -> Tensor:
        """The hardened weight; a product would leave −0.0."""
        mask, values = self.mask.to(weight.device), weight if self.baked is None else self.baked
        return torch.where(mask, values.to(weight.device, weight.dtype), torch.zeros_like(weight))


class Masking:
    """Budgets, soft masks and hard masks of all sites. It knows of weights and step numbers, not of anybody's loop."""

    def __init__(
        self,
        sites: Sequence[Site],
        followers: Sequence[Follower],
        method: Method,
        recipe: Recipe,
        allocation: str,
        surroundings: Surroundings,
    ) -> None:
        self.sites, self.followers, self.method = sites, followers, method
        self.recipe, self.allocation, self.surroundings = recipe, allocation, surroundings
        self.allocated = False

    @property
    def schedule(self) -> Schedule:
        """The method's."""
        return self.method.schedule

    @property
    def complete(self) -> bool:
        """Whether hardening at this moment would give all the zeros that were asked for."""
        return not self.recipe.sparsity or (self.allocated and self.zeros >= self.target)

    @property
    def zeros(self) -> int:
        """Entries that hardening at this moment would set to zero."""
        return sum(site.zeros for site in self.sites)

    @property
    def target(self) -> int:
        """Zeros at the end."""
        if self.allocated:
            return sum(site.budget for site in self.sites)
        return round(self.recipe.sparsity * sum(site.weight.numel() for site in self.sites))

    def whole(self) -> AbstractContextManager[None]:
        """For as long as `site.weight` has to be all of the weight."""
        unless = "pruning coupled channels" if self.followers else ""
        if not self.method.shardable:
            unless = f"method {self.recipe.method}"
        elif self.allocation == "sensitivity":
            unless = "allocation by sensitivity"
        return whole(self.sites, unless=unless)

    def unnoticed(self) -> AbstractContextManager[Any]:
        """For as long as autograd takes no notice of what is written: a forward may be waiting for its backward, which
        refuses tensors that have changed since. It goes on with the values of now, one step of the ramp further.

        Of weights in parts nobody waits: their forwards read what was gathered for them.
        """
        held = [value for site in self.sites for value in (site.live(), *site.state.values())]
        held += [one.parameter for one in self.followers]
        plain = (nn.Parameter, Tensor)
        return torch.autograd._unsafe_preserve_version_counter(tuple(one for one in held if type(one) in plain))

    def refresh(self, step: int) -> None:
        """Bring masks in line with the weights and the step count."""
        # in turn: a NaN anywhere reaches every weight with the next step
        self._refuse_non_finite(self.sites[step % LOOKS :: LOOKS] if step else self.sites, step)
        phase = self.schedule.phase(step)
        if phase == "dense":
            return
        self._allocate()
        if phase == "frozen":
            for site in self.sites:
                site.last = {}
            self.freeze()
            return
        ratio = self.schedule.ratio(step)
        for site in self.sites:
            unit = site.pattern.unit(tuple(site.weight.shape), site.where.output_axis)
            site.zeros = round(ratio * site.budget / unit) * unit
            self.method.update(site, step)
        self.method.after(step)
        for site in self.sites:
            site.masked = self.method.forward(site)

    def hard(self) -> dict[Site, Hard]:
        """What hardening at this moment would write, by site; sites that stay dense are left out."""
        return {
            site: Hard(self.method.hard_mask(site), self.method.baked(site)) if site.mask is None else Hard(site.mask)
            for site in self.sites
            if site.zeros or site.mask is not None
        }

    def soft_masks(self) -> dict[str, SoftMask]:
        """The masks by weight name as plain numbers; of the final budget, whatever the ramp has reached.

        From numbers alone every weight zeroes its own smallest units. Where that is not what was chosen (methods that
        keep by something else than size, coupled channels) the zeros become exact here.
        """
        self._finish_ramp()
        if not self.method.by_size or any(site.peers for site in self.sites):
            self.freeze()
        masks = {}
        for site in self.sites:
            t, tau = site.state.get("t"), site.state.get("tau")
            if t is None or tau is None or site.mask is not None:
                t, tau = (site.threshold() if site.zeros else torch.zeros(())), torch.tensor(SMALLEST_TEMPERATURE)
            masks[site.name] = SoftMask(float(t.mean()), float(tau.mean()), site.zeros, site.pattern.name)
        return masks

    @torch.no_grad()
    def freeze(self) -> None:
        """Zeros in the weights themselves, again after every step: momentum would move them."""
        if any(site.mask is None for site in self.sites):
            self._finish_ramp()
        fresh = {
            site: Hard(self.method.hard_mask(site), self.method.baked(site)) for site in self.sites if site.mask is None
        }
        for site, hard in fresh.items():
            self._bake_averages(site)
            if hard.baked is not None:
                site.weight.copy_(hard.baked)
                site.last = dict(site.state)
            site.mask, site.budget = hard.mask, site.zeros
            site.state.clear()
        for site in self.sites:
            assert site.mask is not None
            site.weight.mul_(site.mask)
        for follower in self.followers:
            follower.parameter.mul_(follower.alive(follower.parameter))

    def adopt(self) -> bool:
        """Take the masks from the weights, if these hold all the zeros that were asked for.

        So it is with hardened weights of an earlier moment, the best so far, that were put into the model again.
        """
        found = {site: site.weight != 0 for site in self.sites}
        if not self.recipe.sparsity or sum(int((~mask).sum()) for mask in found.values()) < self.target:
            return False
        for site, mask in found.items():
            site.mask, site.zeros = mask, int((~mask).sum())
            site.budget = site.zeros
            site.state.clear()
        self.allocated = True
        return True

    def shipped(self, hard_already: Collection[Site] = ()) -> list[tuple[list[str], Callable[[Tensor], Tensor]]]:
        """Names of every weight, and of every norm and bias behind dead channels, with what hardening makes of it."""
        hard = {site: what for site, what in self.hard().items() if site not in hard_already}
        found: list[tuple[list[str], Callable[[Tensor], Tensor]]] = []
        for site, what in hard.items():
            names = [f"{place.owner}.{place.leaf}".lstrip(".") for place in site.where.places]
            found.append((names, what.of))
        masks = {site: what.mask for site, what in hard.items()}
        followers = [one for one in self.followers if masks.keys() & set(one.sites)]
        return found + [([one.name], partial(torch.mul, one.alive(one.parameter, masks))) for one in followers]

    def state(self, for_a_while: Mapping[Site, Tensor]) -> dict[str, dict[str, Any]]:
        """By weight name, plain values and tensors.

        Args:
            for_a_while: what is in the place of hard weights, whose masks are hard for the moment only.
        """
        return {
            site.name: {
                "shape": list(site.live().shape),
                "sample": _known_by(for_a_while.get(site, site.live())),
                "budget": site.budget,
                "zeros": site.zeros,
                "mask": None if site in for_a_while else site.mask,
                "still": site.still,
                "state": dict(site.state),
            }
            for site in self.sites
        }

    @torch.no_grad()
    def load(self, states: Mapping[str, Mapping[str, Any]], dense: Mapping[str, Tensor]) -> None:
        """What `state` returned of the same weights, and weights to put back."""
        for follower in self.followers:
            if follower.name in dense:
                follower.parameter.copy_(laid_as(follower.parameter, dense[follower.name]))
        for site in self.sites:
            if site.name in dense:
                site.live().copy_(laid_as(site.live(), dense[site.name]))
            saved = tree_map_only(Tensor, partial(_beside, site.weight), states[site.name])
            site.budget, site.zeros, site.mask = saved["budget"], saved["zeros"], saved["mask"]
            site.still, site.state = saved["still"], dict(saved["state"])
            site.masked = self.method.forward(site)
        self.allocated = any(site.budget for site in self.sites)

    def baked(self, site: Site, weight: Tensor) -> Tensor | None:
        """What the method makes of `weight`, another one in the place of the site's, where it changes kept values."""
        own = site.weight, site.state
        site.weight, site.state = weight, site.last if site.mask is not None else site.state
        try:
            return self.method.baked(site)
        finally:
            site.weight, site.state = own

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _bake_averages(self, site: Site) -> None:
        """An average follows the weights, so it makes their jump as well."""
        for copy in site.copies:
            weight = copy.average()
            jumped = None if weight is None else self.baked(site, weight)
            if weight is not None and jumped is not None:
                weight.copy_(jumped)

    def _allocate(self) -> None:
        if self.allocated or self.recipe.sparsity == 0:
            return
        gradients = self._gradients() if self.allocation == "sensitivity" else [None] * len(self.sites)
        shares = self.recipe.options.get("shares", {})
        layers = [
            Layer(
                site.name, site.weight.detach(), site.pattern, site.where.output_axis, gradient, site.where.gates,
                shares.get(site.name), site.peers[0].name if site.peers else "",
            )
            for site, gradient in zip(self.sites, gradients, strict=True)
        ]  # fmt: skip
        budgets = allocate(layers, self.recipe.sparsity, self.allocation, self.recipe.options.get("multiple"))
        for site in self.sites:
            site.budget = budgets[site.name]
        self.allocated = True
        self._say_missed()

    def _say_missed(self) -> None:
        wanted = self.recipe.sparsity
        share = sum(site.budget for site in self.sites) / sum(site.weight.numel() for site in self.sites)
        if abs(share - wanted) > NEAR:
            multiple = self.recipe.options.get("multiple")
            warn(
                f"the target is {wanted:.1%} zeros, and units that go as a whole come to {share:.1%}",
                f"a multiple below {multiple} comes nearer"
                if multiple
                else "ask for what they come to, or prune single weights in some layers: --rule 'GLOB=unstructured'",
            )

    def _gradients(self) -> Sequence[Tensor | None]:
        """Of the loss on calibration data, by site; none where there is no loss. Random state is as before."""
        loss, weights = self.surroundings.loss, [site.weight for site in self.sites]
        if loss is None:
            return [None] * len(weights)
        with torch.enable_grad(), torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)  # every process drops the same units
            return torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)

    def _finish_ramp(self) -> None:
        """Full budgets, wherever training stopped, and the method's last word on them."""
        self._refuse_non_finite(self.sites)
        self._allocate()
        soft = [site for site in self.sites if site.mask is None]
        last = self.schedule.frozen_from
        for site in soft:
            if site.zeros != site.budget:
                site.zeros = site.budget
                self.method.update(site, last)
                site.zeros = site.budget
        if soft:
            self.method.settle()

    def _refuse_non_finite(self, looked_at: Sequence[Site], step: int = 0) -> None:
        totals = [site.weight.detach().sum(dtype=torch.float32) for site in looked_at]
        if not totals or torch.isfinite(torch.stack(totals)).all():
            return
        for site in self.sites:
            bad = int((~torch.isfinite(site.weight.detach())).sum())
            if bad:
                when = f", at step {step}" if step else ""
                raise UsageError(
                    f"weight '{site.name}' holds {bad} values that are NaN or infinite{when}",
                    way_out="lower the learning rate, skip steps whose loss is no number, or check the checkpoint; "
                    'LBFGS under masks that move wants line_search_fn="strong_wolfe" and lr below 1',
                )


def _known_by(weight: Tensor) -> Tensor | None:
    return sample(weight) if type(weight.detach()) is Tensor else None  # of one in parts nobody can tell


def _beside(weight: Tensor, saved: Tensor) -> Tensor:
    return saved.to(weight.device)
