"""Whether a model has learned anything yet: among weights that are still random, size says nothing."""

from __future__ import annotations

import math

from torch import Tensor, nn

_FILLED = 0.9  # share of its bound that the largest of a layer's uniform draws passes
_ROUNDING = 1 + 1e-6


def looks_untrained(module: nn.Module) -> bool:
    """Whether all that can tell stands as it is made.

    Batch norms tell by their means, where there are any; else norms by their factors, which start as one number each;
    else layers by their weights and biases, which PyTorch draws evenly within ±1/√fan-in, or by biases that are all
    zero. Where nothing tells, a model counts as trained.

    >>> looks_untrained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    True
    >>> looks_untrained(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)))
    True
    >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> before = looks_untrained(net)
    >>> net[0].weight.data[0, 0] = 0.2  # 1/√64 is 0.125
    >>> before, looks_untrained(net)
    (True, False)
    """
    # not num_batches_tracked: converted and older published checkpoints leave it at 0
    means = [b for name, b in module.named_buffers() if name.rpartition(".")[2] == "running_mean"]
    if means:
        return not any(bool(mean.any()) for mean in means)
    owners = [one for one in module.modules() if next(one.parameters(recurse=False), None) is not None]
    factors = [factor for one in owners for factor in _factors(one)]
    if factors:
        return all(bool((factor == factor[0]).all()) for factor in factors)
    layers = [one for one in owners if _bound(one) is not None]
    biases = [bias for one in layers for name, bias in one.named_parameters(recurse=False) if "bias" in name]
    if biases and not any(bool(bias.any()) for bias in biases):
        return True
    return bool(layers) and all(_as_drawn(one) for one in layers)


def _factors(owner: nn.Module) -> list[Tensor]:
    """The `weight` of a module that has no matrix: what a norm multiplies by."""
    own = dict(owner.named_parameters(recurse=False))
    weight = own.get("weight")
    if weight is None or weight.dim() != 1 or len(weight) < 2 or any(one.dim() > 1 for one in own.values()):
        return []
    return [weight.detach()]


def _bound(layer: nn.Module) -> float | None:
    """What PyTorch's own first weights keep within, None for layers that draw otherwise.

    Source: reset_parameters of Linear, ConvNd and RNNBase in torch.nn (kaiming_uniform_ with a = √5 is 1/√fan-in).
    """
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        return 1 / math.sqrt(layer.hidden_size)
    if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and layer.weight.numel():
        return 1 / math.sqrt(layer.weight[0].numel())
    return None


def _as_drawn(layer: nn.Module) -> bool:
    bound = _bound(layer)
    if bound is None:
        return True
    sizes = [float(one.detach().abs().max()) for one in layer.parameters(recurse=False) if one.numel()]
    matrices = [one for one in layer.parameters(recurse=False) if one.dim() > 1]
    largest = max((float(one.detach().abs().max()) for one in matrices), default=0.0)
    return all(size <= bound * _ROUNDING for size in sizes) and largest > _FILLED * bound
