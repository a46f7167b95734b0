"""Single steps of recurrent layers in plain operators: coremltools has the layers, and none of their cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn.functional import linear
from torch.utils import _pytree

aten = torch.ops.aten


def _lstm(x: Any, state: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> tuple[Any, Any]:
    gates = torch.chunk(linear(x, w_ih, b_ih) + linear(state[0], w_hh, b_hh), 4, 1)
    cell = torch.sigmoid(gates[1]) * state[1] + torch.sigmoid(gates[0]) * torch.tanh(gates[2])
    return torch.sigmoid(gates[3]) * torch.tanh(cell), cell


def _gru(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    of_x, of_h = torch.chunk(linear(x, w_ih, b_ih), 3, 1), torch.chunk(linear(h, w_hh, b_hh), 3, 1)
    reset, update = torch.sigmoid(of_x[0] + of_h[0]), torch.sigmoid(of_x[1] + of_h[1])
    new = torch.tanh(of_x[2] + reset * of_h[2])
    return new + update * (h - new)


def _rnn(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    def step(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        return activation(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh))

    return step


CELLS: dict[Any, Callable[..., Any]] = {
    aten.lstm_cell.default: _lstm,
    aten.gru_cell.default: _gru,
    aten.rnn_tanh_cell.default: _rnn(torch.tanh),
    aten.rnn_relu_cell.default: _rnn(torch.relu),
}


def spell_out_cells(module: fx.GraphModule) -> None:
    """Replace every cell by what it computes, in place."""
    graph = module.graph
    tracer = fx.proxy.GraphAppendingTracer(graph)
    for node in [node for node in graph.nodes if node.target in CELLS]:
        with graph.inserting_before(node):
            args: Any = _pytree.tree_map_only(fx.Node, lambda source: fx.Proxy(source, tracer), node.args)
            results = CELLS[node.target](*args)
        if isinstance(results, tuple):
            for user in list(node.users):  # each picks one
                user.replace_all_uses_with(results[user.args[1]].node)
                graph.erase_node(user)
        else:
            node.replace_all_uses_with(results.node)
        graph.erase_node(node)
