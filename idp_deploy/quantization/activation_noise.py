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

from idp_deploy.quantizers import decibels


@dataclass
class _Sums:
    """Sums over calls for one layer."""

    low: float = 0.0
    high: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    busy: bool = False


@torch.no_grad()
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
    records = {name: _Sums() for name in layers}

    def watch(name: str, measuring: bool) -> Any:
        record, weight = records[name], torch.from_numpy(quantized[name])

        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if record.busy or not inputs or not isinstance(inputs[0], Tensor):
                return
            x = inputs[0]
            if not measuring:
                record.low, record.high = min(record.low, float(x.min())), max(record.high, float(x.max()))
                return
            record.busy = True
            rounded = _rounded(x, record.low, record.high) if integer_inputs else x
            noisy = functional_call(layer, {"weight": weight.to(x.dtype)}, (rounded, *inputs[1:]))
            record.busy = False
            record.signal += float(output.double().square().sum())
            record.noise += float((output.double() - noisy.double()).square().sum())

        return hook

    for measuring in (False, True) if integer_inputs else (True,):
        handles = [layer.register_forward_hook(watch(name, measuring)) for name, layer in layers.items()]
        try:
            for call in calls:
                module(*call)
        finally:
            for handle in handles:
                handle.remove()
    return {name: decibels(record.signal, record.noise) for name, record in records.items() if record.signal > 0}


def _rounded(x: Tensor, low: float, high: float) -> Tensor:
    """`x` on 256 evenly spaced levels from `low` ≤ 0 to `high` ≥ 0, zero among them."""
    step = (high - low) / 255
    return x if step == 0 else ((x / step).round() * step).clamp(low, high)
