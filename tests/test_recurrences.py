"""What a trace says of recurrent operators without running them is what running them says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing.recurrences import RECURRENT, whole_recurrences


class Around(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        outputs, state = self.layer(x)
        return outputs.reshape(-1, outputs.shape[-1]), state


LAYERS = {
    "lstm": nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True),
    "projected": nn.LSTM(8, 6, proj_size=3),
    "gru": nn.GRU(8, 6, 2, bidirectional=True),
    "tanh": nn.RNN(8, 6, batch_first=True),
    "relu": nn.RNN(8, 6, nonlinearity="relu"),
}


def described(module: nn.Module, x: Tensor) -> list[Any]:
    nodes = torch.export.export(module, (x,)).graph.nodes

    def layout(value: Any) -> Any:
        return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value

    return [
        (n.op, str(n.target), [layout(v) for v in torch.utils._pytree.tree_leaves(n.meta.get("val"))]) for n in nodes
    ]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_trace_is_the_same_and_much_shorter(layer: nn.RNNBase) -> None:
    module, x = Around(layer).eval(), torch.randn(2, 9, 8)
    with torch.no_grad():
        expected = described(module, x)
        with whole_recurrences():
            assert described(module, x) == expected


def test_afterwards_the_operators_can_be_taken_apart_as_before() -> None:
    before = [dict(operator.py_kernels) for operator in RECURRENT]
    with pytest.raises(ValueError, match="inside"), whole_recurrences():
        raise ValueError("inside")
    assert [dict(operator.py_kernels) for operator in RECURRENT] == before
    program = torch.export.export(Around(LAYERS["gru"]).eval(), (torch.randn(2, 3, 8),)).run_decompositions()
    assert not any("gru" in str(node.target) for node in program.graph.nodes)
