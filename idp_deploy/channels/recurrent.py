"""Recurrent layers while channels are traced: torch-pruning follows every step of a GRU and loses its way.

For that time a layer's forward is linear layers between its ends, which the tracer knows. What it takes away of their
inputs is taken from the layer's own weights afterwards; hidden units stay as they are. Linear layers are one operator
each for that time: on three axes PyTorch makes two reshapes and a product of them, and a channel that a reshape in
front spreads over several inputs would be spread again by each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Recurrent = nn.RNNBase | nn.RNNCellBase
States = Tensor | tuple[Tensor, ...]
_READ = "for_a_while"  # what the names of the linear layers begin with


class Hidden(nn.Linear):
    """A linear layer between the ends of a recurrent one, whose outputs are hidden units."""


class Held(nn.Linear):
    """The same for a state that is given, whose inputs are hidden units as well."""


class _Linear(torch.autograd.Function):
    """y = x·Wᵀ + b as one operator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight, bias).clone()  # no view, so that it may be written into

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        return grad @ weight, rows.mT @ x.flatten(0, -2), rows.sum(0)


def _at_once(layer: nn.Linear, x: Tensor) -> Tensor:
    y: Tensor = _Linear.apply(x, layer.weight, layer.bias)
    return y


@contextmanager
def standing_in(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Inside, linear layers compute in the place of every recurrent layer of `module`; yields these layers."""
    layers = [layer for layer in module.modules() if isinstance(layer, Recurrent)]
    for layer in layers:
        _stand_in(layer)
    linear = [one for one in module.modules() if isinstance(one, nn.Linear) and type(one) in (nn.Linear, Hidden, Held)]
    for one in linear:
        one.forward = partial(_at_once, one)  # type: ignore[method-assign]
    try:
        yield list(layers)
    finally:
        for one in linear:
            del one.forward
        for layer in layers:
            left = layer.get_parameter(f"{_READ}.weight")[0].detach().round().long()
            for name in [name for name in layer._modules if name.startswith(_READ)]:
                del layer._modules[name]
            del layer.forward
            _keep_inputs(layer, left)


def _stand_in(layer: Recurrent) -> None:
    widths = _widths(layer)
    outputs = widths[0] * 2 if isinstance(layer, nn.RNNBase) and layer.bidirectional else widths[0]
    read = Hidden(layer.input_size, outputs)
    with torch.no_grad():
        read.weight[0] = torch.arange(layer.input_size)  # tells afterwards which inputs are left
    layer.add_module(_READ, read)
    for place, width in enumerate(widths):
        layer.add_module(f"{_READ}_start{place}", Held(width, outputs))
        layer.add_module(f"{_READ}_end{place}", Hidden(outputs, width))
    layer.forward = partial(_cell if isinstance(layer, nn.RNNCellBase) else _sequence, layer)  # type: ignore[arg-type]


def _widths(layer: Recurrent) -> list[int]:
    """Of the states of a layer."""
    if isinstance(layer, nn.LSTM):
        return [layer.proj_size or layer.hidden_size, layer.hidden_size]
    return [layer.hidden_size] * (2 if isinstance(layer, nn.LSTMCell) else 1)


def _keep_inputs(layer: Recurrent, left: Tensor) -> None:
    if len(left) == layer.input_size:
        return
    layer.input_size = len(left)
    for name in ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse"):
        if (weight := layer._parameters.get(name)) is not None:
            setattr(layer, name, nn.Parameter(weight.detach()[:, left], weight.requires_grad))


def _cell(layer: nn.RNNCellBase, x: Tensor, hx: States | None = None) -> States:
    h: Tensor = layer.get_submodule(_READ)(x)
    for start in _starts(layer, hx):
        h = h + start
    return (h, layer.get_submodule(f"{_READ}_end1")(h)) if isinstance(layer, nn.LSTMCell) else h


def _sequence(
    layer: nn.RNNBase, x: Tensor | PackedSequence, hx: States | None = None
) -> tuple[Tensor | PackedSequence, States]:
    values = x.data if isinstance(x, PackedSequence) else x
    time = 1 if layer.batch_first and values.dim() == 3 else 0
    y: Tensor = layer.get_submodule(_READ)(values)
    for start in _starts(layer, hx):
        mean = start.mean(0)
        y = y + (mean.mean(0) if isinstance(x, PackedSequence) else mean.unsqueeze(time))
    first = y[: int(x.batch_sizes[0])] if isinstance(x, PackedSequence) else y.select(time, 0)
    rows = layer.num_layers * (1 + layer.bidirectional)
    ends = [layer.get_submodule(f"{_READ}_end{place}")(first) for place in range(len(_widths(layer)))]
    states = tuple(end.unsqueeze(0).expand(rows, *end.shape) for end in ends)
    given = states if isinstance(layer, nn.LSTM) else states[0]
    if isinstance(x, PackedSequence):
        return PackedSequence(y, x.batch_sizes, x.sorted_indices, x.unsorted_indices), given
    return y, given


def _starts(layer: Recurrent, hx: States | None) -> list[Tensor]:
    """What states that are given come to."""
    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else hx
    return [layer.get_submodule(f"{_READ}_start{place}")(state) for place, state in enumerate(states)]
