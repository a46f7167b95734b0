"""Channels too faint for integers: their bias, counted in steps of their weights, would overflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from idp_deploy.quantization.absorbing import owner_of
from idp_deploy.quantization.watching import watch
from idp_deploy.soundness import unmapped

_BIAS_STEPS = 2.0**28  # of int32's 2³¹: ranges differ a little between runtimes, and sums need room
_LEAST_WEIGHT = 1e-9  # ai-edge-quantizer's `min_bound`


@torch.no_grad()
def silence_faint_channels(
    module: nn.Module,
    quantized: dict[str, np.ndarray],
    axes: Mapping[str, int],
    biases: Mapping[str, Tensor],
    calls: Sequence[tuple[Any, ...]],
) -> tuple[str, ...]:
    """Zero, in `quantized`, the channels whose bias no integer can hold beside their weights; a note for each weight.

    Integer kernels add a bias in int32, in steps of s_in · s_w. Where network slimming has pushed a batch norm's factor
    to almost zero, s_w is so small that the bias overflows; what such weights add to it is lost in 8 bits anyway.
    TFLite's quantizer takes weights below `_LEAST_WEIGHT` for zero whatever their bias is.
    """
    lows, highs = dict.fromkeys(biases, 0.0), dict.fromkeys(biases, 0.0)

    def see(name: str, _: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        x = unmapped(inputs[0])
        lows[name], highs[name] = min(lows[name], float(x.min())), max(highs[name], float(x.max()))

    owners = {name: owner_of(module, name) for name in biases}
    watch(module, {name: layer for name, layer in owners.items() if layer is not None}, calls, see)
    notes = []
    for name, bias in biases.items():
        channels = np.moveaxis(quantized[name], axes[name], 0)
        peaks = np.abs(channels.reshape(len(channels), -1)).max(axis=1)
        if peaks.shape != tuple(bias.shape):  # the groups of a transposed convolution
            continue
        step = peaks / 127 * (highs[name] - lows[name]) / 255
        drowned = (step > 0) & (np.abs(bias.double().numpy()) > _BIAS_STEPS * step)
        faint = (peaks > 0) & (drowned | (peaks < _LEAST_WEIGHT))
        channels[faint] = 0.0  # a view
        if faint.any():
            notes.append(
                f"{int(faint.sum())} of {len(faint)} channels of '{name}' are zero in int8: "
                f"their weights, at most {peaks[faint].max():.1e}, are lost beside their bias"
            )
    return tuple(notes)
