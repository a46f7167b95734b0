"""Recurrent layers while channels are traced: torch-pruning follows every step of a GRU and loses its way.

For that time a layer's forward is linear layers between its ends, which the tracer knows. What it takes away of their
inputs and outputs is taken from the layer's own weights afterwards. Its hidden size is one number, so a hidden unit is
one of every gate, layer and direction: with all of these rows zero, and no state that begins otherwise, the unit stays
zero. What an LSTM projects stays as it is. Linear layers are one operator each for that time: on three axes PyTorch
makes two reshapes and a product of them, and a channel that a reshape in front spreads over several inputs would be
spread again by each.
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
    """What stands in the place of a recurrent layer: its outputs are hidden units.

    Its values say afterwards which of its inputs and outputs are left.
    """

    def __init__(self, layer: Recurrent) -> None:
        super().__init__(layer.input_size, layer.hidden_size)
        self.of = (layer,)  # in a tuple: no part of this one
        self.inputs, self.units = layer.input_size, layer.hidden_size
        with torch.no_grad():
            self.weight.copy_((torch.arange(self.inputs) + 0.25 + 0.5 * torch.rand(self.weight.shape)) / self.inputs)
            self.bias.copy_((torch.arange(self.units) + 0.5) / self.units)

    @property
    def left(self) -> tuple[Tensor, Tensor]:
        """Which inputs and units."""
        return (self.weight.detach()[0] * self.inputs).long(), (self.bias.detach() * self.units).long()


class Projecting(nn.Linear):
    """The same of an LSTM that projects: its outputs, which are no hidden units, stay."""


class Held(Projecting):
    """What leads between its outputs and its cells, both of which stay."""


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
            read = layer.get_submodule(_READ)
            for name in [name for name in layer._modules if name.startswith(_READ)]:
                del layer._modules[name]
            del layer.forward
            _keep(layer, read)


def gates(layer: Recurrent) -> int:
    """Matrices that are stacked in each weight."""
    return 4 if isinstance(layer, nn.LSTM | nn.LSTMCell) else 3 if isinstance(layer, nn.GRU | nn.GRUCell) else 1


def _stand_in(layer: Recurrent) -> None:
    projected = getattr(layer, "proj_size", 0)
    for way in _ways(layer):
        read = Projecting(layer.input_size, projected) if projected else Hidden(layer)
        if projected:
            with torch.no_grad():
                read.weight[0] = torch.arange(layer.input_size)  # tells afterwards which inputs are left
        layer.add_module(way, read)
    if projected:
        layer.add_module(f"{_READ}_start", Held(layer.hidden_size, projected))
        layer.add_module(f"{_READ}_end", Held(projected, layer.hidden_size))
    layer.forward = partial(_cell if isinstance(layer, nn.RNNCellBase) else _sequence, layer)  # type: ignore[arg-type]


def _ways(layer: Recurrent) -> tuple[str, ...]:
    """Names of what stands in for each direction."""
    return (_READ, f"{_READ}_back") if isinstance(layer, nn.RNNBase) and layer.bidirectional else (_READ,)


def _keep(layer: Recurrent, read: nn.Module) -> None:
    """Take away the inputs and hidden units of a layer's own weights that are gone where it was stood in for."""
    many = next(iter(layer.parameters(recurse=False))).shape[0] // gates(layer)
    if isinstance(read, Hidden):
        inputs, units = read.left
    else:
        inputs, units = read.get_parameter("weight")[0].detach().round().long(), torch.arange(many)
    if (len(inputs), len(units)) == (layer.input_size, many):
        return
    projected = getattr(layer, "proj_size", 0)
    rows = torch.cat([units + gate * many for gate in range(gates(layer))])
    held = torch.arange(projected) if projected else units
    below = torch.cat([held + way * (projected or many) for way in range(len(_ways(layer)))])  # outputs of a layer
    columns = {"weight_ih_l": below, "weight_hh": held, "weight_hr": units}
    for name, parameter in list(layer._parameters.items()):
        if parameter is None:
            continue
        value = parameter.detach() if name.startswith("weight_hr") else parameter.detach()[rows]
        if name in ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse"):
            value = value[:, inputs]
        else:
            for start, left in columns.items():
                value = value[:, left] if name.startswith(start) else value
        setattr(layer, name, nn.Parameter(value, parameter.requires_grad))
    layer.input_size, layer.hidden_size = len(inputs), len(units)


def _cell(layer: nn.RNNCellBase, x: Tensor, hx: States | None = None) -> States:
    [h] = _read(layer, x)
    for start in _starts(layer, hx):
        h = h + start
    return (h, h.clone()) if isinstance(layer, nn.LSTMCell) else h


def _sequence(
    layer: nn.RNNBase, x: Tensor | PackedSequence, hx: States | None = None
) -> tuple[Tensor | PackedSequence, States]:
    values = x.data if isinstance(x, PackedSequence) else x
    time = 1 if layer.batch_first and values.dim() == 3 else 0
    ways = _read(layer, values)
    for start in _starts(layer, hx):
        mean = start.mean(0)
        mean = mean.mean(0) if isinstance(x, PackedSequence) else mean.unsqueeze(time)
        ways = [way + mean for way in ways]
    if len(ways) > 1:  # a unit of one direction goes with that of the other
        both = ways[0] + ways[1]
        ways = [way + both for way in ways]
    y = torch.cat(ways, -1) if len(ways) > 1 else ways[0]
    firsts = [way[: int(x.batch_sizes[0])] if isinstance(x, PackedSequence) else way.select(time, 0) for way in ways]
    h = torch.stack(firsts * layer.num_layers)
    given: States = h
    if isinstance(layer, nn.LSTM):
        given = h, layer.get_submodule(f"{_READ}_end")(h) if layer.proj_size else h.clone()
    if isinstance(x, PackedSequence):
        return PackedSequence(y, x.batch_sizes, x.sorted_indices, x.unsorted_indices), given
    return y, given


def _read(layer: Recurrent, x: Tensor) -> list[Tensor]:
    """What stands in for each direction makes of the inputs, whatever floats they are."""
    return [layer.get_submodule(way)(x.float()).to(x.dtype) for way in _ways(layer)]


def _starts(layer: Recurrent, hx: States | None) -> list[Tensor]:
    """States that are given, as wide as what the layer makes."""
    states = [] if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)
    if getattr(layer, "proj_size", 0):
        states[1:] = [layer.get_submodule(f"{_READ}_start")(state) for state in states[1:]]
    return states
