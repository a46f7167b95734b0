"""What quantization does to the output of each layer, as signal to noise over calibration calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from idp_deploy.quantization.watching import watch
from idp_deploy.quantizers import decibels
from idp_deploy.soundness import unmapped


@dataclass
class _Sums:
    """Sums over calls for one layer."""

    low: float = 0.0
    high: float = 0.0
    signal: float = 0.0
    noise: float = 0.0


def activation_noise(
    module: nn.Module, quantized: Mapping[str, np.ndarray], calls: Sequence[tuple[Any, ...]], *, integer_inputs: bool
) -> dict[str, float]:
    """Signal to noise of each layer's output in decibels, from its own quantization alone: its input is the float one.

    Args:
        integer_inputs: round the layer's input to 255 levels of the range it has over the calls as well.
    """
    owners = {name: module.get_submodule(name.rpartition(".")[0]) for name in quantized}
    layers = {
        name: owner
        for name, owner in owners.items()
        if isinstance(owner, nn.Linear | _ConvNd) and name.endswith("weight")
    }
    sums = {name: _Sums() for name in layers}

    def measure_range(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        of, x = sums[name], unmapped(inputs[0])
        of.low, of.high = min(of.low, float(x.min())), max(of.high, float(x.max()))

    def measure_noise(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        of, x = sums[name], inputs[0]
        arrived = rounded(x, of.low, of.high) if integer_inputs else x
        weight = torch.from_numpy(quantized[name]).to(x.dtype)
        noisy = functional_call(layer, {"weight": weight}, (arrived, *inputs[1:]))
        of.signal += float(unmapped(output).double().square().sum())
        of.noise += float(unmapped(output.double() - noisy.double()).square().sum())

    if integer_inputs:
        watch(module, layers, calls, measure_range)
    watch(module, layers, calls, measure_noise)
    return {name: decibels(of.signal, of.noise) for name, of in sums.items() if of.signal > 0}


def rounded(x: Tensor, low: float, high: float) -> Tensor:
    """`x` on 256 evenly spaced levels from `low` ≤ 0 to `high` ≥ 0, zero among them."""
    step = (high - low) / 255
    return x if step == 0 else ((x / step).round() * step).clamp(low, high)
