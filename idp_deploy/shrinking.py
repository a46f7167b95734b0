"""shrink: channels that are exactly zero are taken out, which leaves a smaller dense model with the same outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.arguments import arguments_of
from idp_deploy.channels import cut, dead_channels
from idp_deploy.channels.tracing import outputs
from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel, Quantization, Recipe
from idp_deploy.ledger import refuse_plain
from idp_deploy.masks import copied, prunable_weights


def shrink(model: CompressedModel, example_inputs: tuple[Any, ...] | Tensor) -> CompressedModel:
    """Remove every output channel that is zero in all layers it is coupled to: weights, biases and norms alike.

    Channels that are added to each other, as along a residual stream, go together or not at all. At least one channel
    of a layer stays. A channel with a living bias or norm is a constant, not a zero, and stays too, as does one whose
    removal the module's forward does not survive unchanged: where heads are counted out, or a norm takes the mean over
    channels. `prune` with pattern "channel" leaves whole coupled channels at zero; `zero_channels` lists what stayed.

    Args:
        model: left as it is.
        example_inputs: one call's positional arguments.

    Returns:
        The same function in a smaller module. Its checkpoint records the shapes and loads back from it.

    Raises:
        ConversionError: the module cannot be traced, or there are such channels and none of them can be removed.
    """
    refuse_plain(model)
    example: tuple[Any, ...] = arguments_of("example_inputs", example_inputs, needed=True)
    module = copied(model.module).cpu().eval()
    marks = copied(module)  # the masks as weights of a twin, cut in the same places
    with torch.no_grad():
        for name, mask in model.masks.items():
            marks.get_parameter(name).copy_(mask)
    try:
        before = outputs(module, example)
        dead = dead_channels(module, example)
    except Exception as error:
        raise ConversionError(f"channels of this model cannot be removed: {error}") from error
    if not dead.gone and not dead.refused and (left := zero_channels(model)):
        raise ConversionError(
            f"{sum(left.values()):,} channels of {len(left)} layers are zero and none can be removed: norms or biases "
            "behind them live, or other layers make the same channels",
            way_out="prune with example inputs (Pruner(example_inputs=…), --inputs or --task), so that they go as well",
        )
    twins, reason = cut((module, marks), dead, example, before)
    if twins is None or (dead.refused and not dead.gone):
        raise ConversionError(
            f"{len(dead.gone) + len(dead.refused)} groups of channels are zero and none can be removed: "
            f"{next(iter(dead.refused.values()), reason)}",
            way_out="export it without shrinking",
        )
    module, marks = twins
    flags = {name: parameter.requires_grad for name, parameter in model.module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(flags[name])
    masks = {name: marks.get_parameter(name).detach() != 0 for name in model.masks}
    provenance = replace(model.provenance, steps=(*model.provenance.steps, "shrink"))
    return replace(
        model,
        module=module.train(model.module.training),
        masks=masks,
        quantization=_of_the_same_shape(model.quantization, module),
        provenance=provenance,
        shapes={},  # those of the smaller module
    )


def _of_the_same_shape(quantization: Quantization | None, module: nn.Module) -> Quantization | None:
    """Without the integers of weights that became smaller: exporters find these again from the values."""
    if quantization is None:
        return None
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters(remove_duplicate=False)}
    return replace(
        quantization, levels={name: one for name, one in quantization.levels.items() if shapes[name] == one.q.shape}
    )


def prunes_channels(recipe: Recipe | None) -> bool:
    """Whether a recipe prunes whole channels anywhere.

    >>> prunes_channels(Recipe(options={"rules": {"*.up.*": "channel"}})), prunes_channels(Recipe(pattern="2:4"))
    (True, False)
    """
    return recipe is not None and "channel" in (recipe.pattern, *recipe.options.get("rules", {}).values())


def shrink_as_asked(model: CompressedModel, example_inputs: tuple[Any, ...]) -> tuple[CompressedModel, str]:
    """`shrink` where the recipe prunes channels, else the model itself; and why nothing could be removed, if so."""
    if not prunes_channels(model.recipe) or not zero_channels(model):
        return model, ""
    try:
        return shrink(model, example_inputs), ""
    except ConversionError as error:
        return model, error.message


def zero_channels(model: CompressedModel) -> dict[str, int]:
    """Output channels that are zero as a whole, by weight name: what `shrink` would look at, or has left.

    >>> masks = {"w": torch.tensor([[True, False], [False, False]])}
    >>> zero_channels(CompressedModel(nn.Module(), masks))
    {'w': 1}
    """
    prunable = prunable_weights(model.module)
    found = {}
    for name, mask in model.masks.items():
        axis = prunable[name].output_axis if name in prunable else 0
        found[name] = int((~mask.movedim(axis, 0).flatten(1).any(1)).sum())
    return {name: count for name, count in found.items() if count}
