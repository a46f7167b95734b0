"""Which output channels can only go together: those added to each other, and what follows them one to one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from idp_deploy.errors import ConversionError

# a channel that is gone changes what is left
_OVER_CHANNELS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Coupled:
    """Layers whose i-th output channels are one channel of the network.

    `weights` are the prunable ones among them; `followers` are parameters with one entry, or one filter, a channel
    that only serve it: biases, norms, depthwise convolutions. `fixed` says why channels cannot be removed, if so.
    `readers` are the layers whose inputs they are.
    """

    weights: tuple[str, ...]
    followers: tuple[str, ...]
    fixed: str = ""
    readers: tuple[str, ...] = ()


def couple(module: nn.Module, example_inputs: tuple[Any, ...], prunable: Collection[str]) -> list[Coupled]:
    """Trace `module` once (a copy of it) and group its output channels.

    Args:
        prunable: names of the weights that count as `weights`; all else is a follower.

    Raises:
        ConversionError: the module cannot be traced.
    """
    import torch_pruning

    module = deepcopy(module).cpu().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    names = {child: name for name, child in module.named_modules()}
    try:
        with torch.random.fork_rng(), torch.enable_grad(), _quiet():
            graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs, verbose=False)
            groups = list(graph.get_all_groups())
    except Exception as error:
        raise ConversionError(
            f"the channels of this model cannot be traced: {error}", way_out="use another pattern than channel"
        ) from error
    coupled = []
    for group in groups:
        weights: list[str] = []
        followers: list[str] = []
        fixed, readers = "", []
        for dependency, indices in group:
            if _is_grouped(dependency.target.module):
                fixed = fixed or "a grouped convolution needs as many channels in every group"
            if not graph.is_out_channel_pruning_fn(dependency.handler):
                readers += [names[dependency.target.module]] if dependency.target.module in names else []
                continue
            if not dependency.target.outputs:
                fixed = "its channels are the model's outputs"
            owner = dependency.target.module
            if isinstance(owner, nn.Parameter | nn.Embedding):
                fixed = fixed or "its channels meet those of an embedding or of a parameter outside the layers"
                continue
            if isinstance(owner, _OVER_CHANNELS):
                fixed = fixed or "a norm takes the mean over its channels"
            path = names.get(owner)
            if path is None:
                continue
            for leaf, parameter in owner.named_parameters(recurse=False):
                name = f"{path}.{leaf}"
                if indices != list(range(parameter.shape[_channel_axis(owner, leaf)])):
                    fixed = fixed or "its channels are only a part of what follows"
                (weights if name in prunable else followers).append(name)
        if weights:
            coupled.append(
                Coupled(tuple(dict.fromkeys(weights)), tuple(dict.fromkeys(followers)), fixed, tuple(readers))
            )
    return coupled


def _is_grouped(owner: Any) -> bool:
    """A convolution of several groups with several channels each; depthwise ones lose whole groups."""
    groups = getattr(owner, "groups", 1)
    return isinstance(groups, int) and 1 < groups < getattr(owner, "in_channels", 1)


def _channel_axis(owner: nn.Module, leaf: str) -> int:
    transposed = isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return int(transposed and leaf == "weight")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch-pruning warns about every parameter it does not prune."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
