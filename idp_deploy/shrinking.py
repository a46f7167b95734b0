"""shrink: channels that are exactly zero are taken out, which leaves a smaller dense model with the same outputs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel

# a channel whose parameters are all zero stays zero through these, so that what follows never sees it
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def shrink(model: CompressedModel, example_inputs: tuple[Any, ...]) -> CompressedModel:
    """Remove every output channel that is zero in all layers it is coupled to: weights, biases and norms alike.

    Channels that are added to each other, as along a residual stream, go together or not at all. At least one channel
    of a layer stays. A channel with a living bias or norm is a constant, not a zero, and stays too. `prune` with
    pattern "channel" leaves whole coupled channels at zero.

    Args:
        model: left as it is.
        example_inputs: one call's positional arguments.

    Returns:
        The same function in a smaller module. Its checkpoint records the shapes and loads back from it.

    Raises:
        ConversionError: the module cannot be traced, or computes something else after removal.
    """
    import torch_pruning

    module = deepcopy(model.module).cpu().eval()
    marks = deepcopy(module)  # the masks as weights of a twin, cut in the same places
    with torch.no_grad():
        for name, mask in model.masks.items():
            marks.get_parameter(name).copy_(mask)
    twins = []
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            for twin in (module, marks):
                for parameter in twin.parameters():
                    parameter.requires_grad_(True)
                twins.append(torch_pruning.DependencyGraph().build_dependency(twin, example_inputs, verbose=False))
        graph, mark_graph = twins
        before = _outputs(module, example_inputs)
        roots = [(group[0].dep.target.name, _dead(graph, group)) for group in graph.get_all_groups()]
        by_name = [{node.name: node for node in twin.module2node.values()} for twin in (graph, mark_graph)]
        for name, dead in roots:
            for twin, nodes in zip((graph, mark_graph), by_name, strict=True):
                if dead:
                    owner = nodes[name].module
                    twin.get_pruning_group(owner, twin.get_pruner_of_module(owner).prune_out_channels, dead).prune()
    except Exception as error:
        raise ConversionError(f"channels of this model cannot be removed: {error}") from error
    for original, cut in ((model.module, module), (model.module, marks)):
        flags = {name: parameter.requires_grad for name, parameter in original.named_parameters()}
        for name, parameter in cut.named_parameters():
            parameter.requires_grad_(flags[name])
    for a, b in zip(before, _outputs(module, example_inputs), strict=True):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max() + 1e-30)):
            raise ConversionError(
                "removing zeroed channels changed the model's outputs", way_out="export it without shrinking"
            )
    masks = {name: marks.get_parameter(name).detach() != 0 for name in model.masks}
    provenance = replace(model.provenance, steps=(*model.provenance.steps, "shrink"))
    return replace(model, module=module.train(model.module.training), masks=masks, provenance=provenance)


def _dead(graph: Any, group: Any) -> list[int]:
    """Indices of the root's channels that are zero in every layer of the group; never all of them."""
    indices = group[0].idxs
    alive = torch.zeros(len(indices), dtype=torch.bool)
    for dependency, places in group:
        if not graph.is_out_channel_pruning_fn(dependency.handler):
            continue
        owner = dependency.target.module
        if not dependency.target.outputs or len(places) != len(indices):
            return []  # the model's outputs, or a layer that sees several entries of a channel
        if isinstance(owner, _NORMS) and not owner.affine:
            return []
        transposed = isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        for leaf, parameter in owner.named_parameters(recurse=False):
            channels = parameter.detach().movedim(int(transposed and leaf == "weight"), 0)[places]
            alive |= channels.flatten(1).any(1) if channels.dim() > 1 else channels != 0
    dead = [index for index, living in zip(indices, alive.tolist(), strict=True) if not living]
    return dead if len(dead) < len(indices) else dead[1:]


def _outputs(module: nn.Module, example_inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        outputs = module(*example_inputs)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
