"""Recurrent layers in a trace: torch.export keeps LSTM, GRU and RNN as one operator each, and runs all their steps.

It runs them, on tensors without numbers, to learn nothing but shapes: of 160 steps through three layers some 12,000
operators, seconds of every export. Inside `whole_recurrences` the shapes are said instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table

aten = torch.ops.aten

RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
_KEYS = (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd)


def _results(
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    parameters: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """(outputs, last state, …) as the operator lays them out: (steps, batch, features) in memory."""
    states = [state] if isinstance(state, Tensor) else list(state)
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    first, second = x.shape[:2]
    outputs = x.new_empty(second, first, width).transpose(0, 1) if batch_first else x.new_empty(first, second, width)
    return outputs, *(x.new_empty(one.shape) for one in states)


def free_steps(graph: fx.Graph) -> bool:
    """Whether a recurrent layer takes a free number of steps: then the free axis is no batch, and no file holds it."""
    for node in graph.nodes:
        if node.target in RECURRENT:
            x: Any = node.args[0]
            if not isinstance(x.meta["val"].shape[1 if node.args[8] else 0], int):
                return True
    return False


@contextmanager
def whole_recurrences(operators: Collection[torch._ops.OpOverload] = RECURRENT) -> Iterator[None]:
    """Inside, a trace takes the results of these recurrent operators by their shapes, and cannot take them apart.

    With a free batch it takes the operators apart by another table than by their kernels.
    """
    before = [dict(operator.py_kernels) for operator in operators]
    apart: dict[Any, Any] = {
        operator: decomposition_table[operator] for operator in operators if operator in decomposition_table
    }
    for operator in operators:
        operator.py_kernels.update(dict.fromkeys(_KEYS, _results))
        operator._dispatch_cache.clear()
    decomposition_table.update(dict.fromkeys(apart, _results))
    try:
        yield
    finally:
        decomposition_table.update(apart)
        for operator, kernels in zip(operators, before, strict=True):
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()
