"""Lazy layers (`nn.LazyLinear`, …), whose sizes the weights tell where a first call would have told them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy


def is_open(tensor: Tensor) -> bool:
    """Whether it has no shape yet and takes any."""
    return bool(is_lazy(tensor))


def settle(module: nn.Module) -> None:
    """Make every lazy layer that has its weights the layer it stands for, in place.

    >>> lazy = nn.LazyLinear(2)
    >>> _ = lazy.load_state_dict(nn.Linear(3, 2).state_dict())
    >>> settle(lazy)
    >>> lazy
    Linear(in_features=3, out_features=2, bias=True)
    """
    for layer in list(module.modules()):
        if isinstance(layer, LazyModuleMixin) and not layer.has_uninitialized_params():
            _settle(layer)


def _settle(layer: Any) -> None:
    if getattr(layer, "in_features", None) == 0:
        layer.in_features = layer.weight.shape[1]
    if getattr(layer, "in_channels", None) == 0:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        layer.in_channels = layer.weight.shape[0] if transposed else layer.weight.shape[1] * layer.groups
    if getattr(layer, "num_features", None) == 0:
        known = layer.weight if layer.weight is not None else layer.running_mean
        layer.num_features = known.shape[0] if known is not None else 0
    layer._infer_parameters(layer, (torch.empty(0),))  # what its first call does
