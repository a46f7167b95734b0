"""Whether a state that is loaded is one of this pruner's: the same settings, the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from idp_deploy.errors import UsageError
from idp_deploy.flow import Recipe
from idp_deploy.ledger import PRUNER_STATE
from idp_deploy.pruning.sites import Site

# settings that a state goes on with; of a recipe's others epochs are held against the schedule
_KEPT = ("sparsity", "method", "pattern", "mode")


def settings(recipe: Recipe) -> dict[str, Any]:
    """What `refuse_other` will hold against another pruner's, in plain values, which `torch.load` reads."""
    return {name: getattr(recipe, name) for name in _KEPT} | {"sparsity": float(recipe.sparsity)}


def refuse_other(state: Any, recipe: Recipe, sites: Sequence[Site]) -> None:
    """Raise `UsageError` where `state` is no pruner's, or that of other settings or other weights."""
    parts = [state.get(name) for name in ("sites", "schedule")] if isinstance(state, Mapping) else [None]
    if not all(isinstance(part, Mapping) for part in parts) or not state.keys() >= PRUNER_STATE:
        held = ", ".join(map(repr, list(state)[:3])) if isinstance(state, Mapping) else type(state).__name__
        raise UsageError(
            f"this is no state of a Pruner: it has no {', '.join(sorted(PRUNER_STATE))} but {held or 'nothing'}",
            way_out="give what pruner.state_dict() returned, beside the model's own state",
        )
    for name, theirs in state.get("settings", {}).items():
        if name in _KEPT and not _are_same(theirs, getattr(recipe, name)):
            raise UsageError(
                f"the state is of a run with {name} {theirs!r}, and this Pruner has {getattr(recipe, name)!r}",
                way_out=f"go on with {name}={theirs!r}; or finalize() that run first, and prune its model with a "
                "Pruner of its own",
            )
    own = {site.name: site for site in sites}
    for name, site in own.items():
        if name not in state["sites"]:
            raise UsageError(
                f"this pruner's state has no weight '{name}'",
                way_out="load the state of a Pruner with the same model, skip and rules",
            )
        theirs = state["sites"][name].get("shape")
        if theirs is not None and tuple(theirs) != tuple(site.weight.shape):
            raise UsageError(
                f"'{name}' is {tuple(theirs)} in this pruner's state and {tuple(site.weight.shape)} here",
                way_out="load the state of a Pruner with the same model",
            )
    if left := [name for name in state["sites"] if name not in own]:
        raise UsageError(
            f"this pruner's state has a mask for '{left[0]}', which is not pruned here",
            way_out="load it into a Pruner with the same model, skip and rules",
        )


def _are_same(theirs: Any, own: Any) -> bool:
    """Shares are, where only rounding lies between them: 3 * 0.3 and 0.9."""
    return theirs == own or (isinstance(theirs, float) and math.isclose(theirs, own))
