"""From a recipe to masks: which weights of a model, how zeros are shared out, by which rule, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.arguments import arguments_of, number, plain
from idp_deploy.channels import couple
from idp_deploy.errors import UsageError, a_type, warn
from idp_deploy.flow import Recipe
from idp_deploy.masks import NM, Channel, prunable_weights
from idp_deploy.pruning.allocation import ALLOCATIONS, usual_allocation
from idp_deploy.pruning.following import Follower, Part
from idp_deploy.pruning.gates import follows_norms
from idp_deploy.pruning.masking import Masking
from idp_deploy.pruning.methods import METHODS, Surroundings
from idp_deploy.pruning.optimizers import is_adaptive
from idp_deploy.pruning.options import SCHEDULE_OPTIONS, SELECTION_OPTIONS, check_options, selection_options
from idp_deploy.pruning.schedule import auto_schedule, paper_schedule, usual_timing
from idp_deploy.pruning.selecting import by_reason, select, some
from idp_deploy.pruning.sharding import refuse_sharded
from idp_deploy.pruning.sites import Site

# τ of the paper, the derivative as it is, t at every step and nothing beside it
PAPER = {
    "temperature": 1e-4, "clip": False, "floor": 0.0, "floor_end": 0.0, "refresh": 1, "rows": False, "gates": False,
}  # fmt: skip
# with an adaptive optimizer: a mask that hardly leaves anything undecided, and a derivative of 1 (docs/pruning.md)
DECIDED = {"kappa": 100.0, "floor_end": 1.0}


def assemble(
    model: nn.Module,
    recipe: Recipe,
    *,
    steps_per_epoch: int | None = None,
    example_inputs: tuple[Any, ...] | Tensor | None = None,
    loss: Callable[[], Tensor] | None = None,
    optimizer: Any = None,
) -> tuple[Masking, dict[str, str]]:
    """The masks of `recipe` on `model`, nothing of them chosen yet; and why a prunable weight is left dense.

    Raises:
        UsageError: a recipe that cannot be meant, or that does not fit the model.
    """
    steps_per_epoch = plain(steps_per_epoch)
    _check(recipe, steps_per_epoch, loss, optimizer)
    example: tuple[Any, ...] | None = arguments_of("example_inputs", example_inputs)
    options, rule = dict(recipe.options), METHODS[recipe.method]
    sites, followers, left = _chosen(model, recipe, example)
    _check_sparsity(sites, recipe.sparsity)
    unknown = sorted(set(options.get("shares", {})) - {site.name for site in sites})
    if unknown:
        raise UsageError(f"shares: '{unknown[0]}' is no weight that is pruned", way_out="name it as in the state dict")
    usual_one = usual_allocation(recipe.mode, recipe.sparsity, [site.pattern for site in sites])
    allocation = usual_one if recipe.allocation == "auto" else recipe.allocation
    known = SCHEDULE_OPTIONS[recipe.mode]
    timing = {k: v for k, v in {**rule.timing, **options}.items() if k in known and v is not None}
    usual = {} if rule.ramp == "none" else usual_timing(model)  # without a ramp a mask is there from the first step
    schedule = (
        auto_schedule(recipe.epochs * (steps_per_epoch or 1), shape=rule.ramp, **{**usual, **timing})
        if recipe.mode == "auto"
        else paper_schedule(recipe.epochs, steps_per_epoch or 1, **timing)
    )
    own = {key: value for key, value in options.items() if key not in (*SELECTION_OPTIONS, *known)}
    method = rule(sites, schedule, recipe.seed, {**defaults_of(recipe, optimizer), **own})
    return Masking(sites, followers, method, recipe, allocation, Surroundings(model, example, loss)), left


def left_dense(module: nn.Module, recipe: Recipe, example_inputs: tuple[Any, ...] | None = None) -> Mapping[str, str]:
    """Prunable weights that `recipe` leaves dense → the reason. Errors as those of `select`.

    Args:
        example_inputs: one call's arguments; with them it is known which channels cannot be removed.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    >>> left_dense(net, Recipe(0.5, pattern="2:4"))
    {'0.weight': '2:4 goes along input channels, and 3 do not divide by 4'}
    """
    selection = select(module, recipe.pattern, skip=recipe.skip, **selection_options(recipe))
    if example_inputs is None or not any(isinstance(pattern, Channel) for _, pattern in selection.chosen.values()):
        return selection.left
    return _chosen(module, recipe, example_inputs)[2]


def _chosen(
    model: nn.Module, recipe: Recipe, example: tuple[Any, ...] | None
) -> tuple[list[Site], list[Follower], dict[str, str]]:
    """The weights that are pruned, what follows their channels, and why others are left dense."""
    choice = selection_options(recipe)
    if recipe.pattern == "channel" and example is None:
        choice.setdefault("last", False)  # its channels are the model's outputs, as far as one can tell
    selection = select(model, recipe.pattern, skip=recipe.skip, **choice)
    left = dict(selection.left)
    found = [
        Site(name, model.get_submodule(where.places[0].owner), model.get_parameter(name), where, parsed)
        for name, (where, parsed) in selection.chosen.items()
    ]
    return *_coupled(model, found, left, example), left


def _check(recipe: Recipe, steps_per_epoch: float | None, loss: Any, optimizer: Any) -> None:
    allocation = recipe.allocation
    check_options(recipe.method, recipe.mode, recipe.options)
    if allocation != "auto" and allocation not in ALLOCATIONS:
        raise UsageError(f"unknown allocation '{allocation}'", way_out=f"known are auto, {', '.join(ALLOCATIONS)}")
    steps = 1 if steps_per_epoch is None else number(steps_per_epoch)
    if steps is None or not math.isfinite(steps):
        raise UsageError(
            f"steps_per_epoch is {steps_per_epoch!r}",
            way_out="give the optimizer steps of an epoch as a number, len(loader) / accumulation",
        )
    if recipe.epochs < 1 or steps < 1:
        raise UsageError(
            f"{recipe.epochs} epochs of {steps_per_epoch} steps", way_out="pruning trains: give at least 1"
        )
    if loss is not None and not callable(loss):
        raise UsageError(
            f"loss is {a_type(loss)}", way_out="give a function of nothing that returns the loss on some data"
        )
    if optimizer is not None and not callable(getattr(optimizer, "step", None)):
        raise UsageError(
            f"optimizer is {a_type(optimizer)}, which takes no steps",
            way_out="give the optimizer that trains the weights; steps of others that do are counted as well",
        )


def _coupled(
    model: nn.Module, sites: list[Site], left: dict[str, str], example_inputs: tuple[Any, ...] | None
) -> tuple[list[Site], list[Follower]]:
    """Channels that are one in the network share their fate; those that cannot be removed stay dense.

    Returns:
        The sites that stay, and norms and biases behind their channels.
    """
    channelled = {site.name: site for site in sites if isinstance(site.pattern, Channel)}
    if channelled and example_inputs is None:
        warn(
            "channels are pruned without example inputs, so that nothing tells which of them go together and what "
            "follows them: norms and biases behind them stay, and shrink will find hardly any to take out",
            "give one call's arguments: Pruner(example_inputs=(x,)), one_shot(example_inputs=(x,)), --inputs or --task",
        )
    if not channelled or example_inputs is None:
        alone = [name for name, site in channelled.items() if site.where.kind == "recurrent"]
        left |= dict.fromkeys(alone, "without example inputs nothing tells which hidden units go together")
        return _staying(sites, left), []
    refuse_sharded(sites, "pruning coupled channels")
    keeping = {name for name, weight in prunable_weights(model).items() if weight.kind != "depthwise"}
    keeping = (keeping | {site.name for site in sites}) - set(channelled)
    parts: dict[str, list[Part]] = {}
    axes: dict[str, int] = {}
    for coupled in couple(model, example_inputs, channelled):
        peers = tuple(site for name, site in channelled.items() if name in coupled.weights)
        kept = next((name for name in coupled.followers if name in keeping), None)
        fixed = coupled.fixed or (f"'{kept}' makes the same channels and keeps them" if kept else "")
        normed = follows_norms(model, len(peers), coupled)
        for site in peers:
            site.peers, site.normed = peers, normed
            site.pattern = Channel.made_of(coupled.channels.get(site.name, ()), coupled.many, grouped=coupled.grouped)
            if fixed:
                left[site.name] = fixed
        axes |= coupled.axes
        for name in coupled.followers if not fixed else ():
            parts.setdefault(name, []).append(Part(peers[0], torch.tensor(coupled.channels[name])))
    staying = _staying(sites, left)
    return staying, [Follower(name, model.get_parameter(name), found, axes[name]) for name, found in parts.items()]


def _staying(sites: list[Site], left: Mapping[str, str]) -> list[Site]:
    staying = [site for site in sites if site.name not in left]
    if sites and not staying:
        reasons = "; ".join(f"{reason}: {some(names)}" for reason, names in by_reason(left).items())
        raise UsageError(
            f"no channel of this model can be removed ({reasons})", way_out="use another pattern than channel"
        )
    return staying


def _check_sparsity(sites: list[Site], sparsity: float) -> None:
    patterns = {site.pattern for site in sites}
    for pattern in patterns:
        if isinstance(pattern, NM) and patterns == {pattern} and sparsity != pattern.sparsity:
            raise UsageError(
                f"pattern {pattern.name} means a sparsity of {pattern.sparsity}, not {sparsity}",
                way_out=f"ask for {pattern.sparsity}",
            )


def defaults_of(recipe: Recipe, optimizer: Any) -> dict[str, Any]:
    """Options of `recipe.method` that follow from the mode and from what trains the weights."""
    if recipe.method != "idp":
        return {}
    if recipe.mode == "paper":
        return dict(PAPER)
    return dict(DECIDED) if is_adaptive(optimizer) else {}
