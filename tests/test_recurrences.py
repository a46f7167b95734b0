"""What a trace says of recurrent operators without running them is what running them says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._decomp import decomposition_table

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


@pytest.mark.wide
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_trace_is_the_same_and_much_shorter(layer: nn.RNNBase) -> None:
    module, x = Around(layer).eval(), torch.randn(2, 9, 8)
    with torch.no_grad():
        expected = described(module, x)
        with whole_recurrences():
            assert described(module, x) == expected


def test_afterwards_the_operators_can_be_taken_apart_as_before() -> None:
    before = [dict(operator.py_kernels) for operator in RECURRENT]
    table = {operator: decomposition_table.get(operator) for operator in RECURRENT}
    with pytest.raises(ValueError, match="inside"), whole_recurrences():
        raise ValueError("inside")
    assert [dict(operator.py_kernels) for operator in RECURRENT] == before
    assert {operator: decomposition_table.get(operator) for operator in RECURRENT} == table
    program = torch.export.export(Around(LAYERS["gru"]).eval(), (torch.randn(2, 3, 8),)).run_decompositions()
    assert not any("gru" in str(node.target) for node in program.graph.nodes)


def test_a_free_batch_is_no_reason_to_run_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a symbol for the batch a trace looks its operators up in another table, and ran 160 steps from there."""
    layer = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Around(layer).eval(), (torch.randn(2, 9, 8),), dynamic_shapes=({0: batch},))
    kept = {target: row for target, row in torch.export.default_decompositions().items() if target not in RECURRENT}

    def stepped(*_: Any) -> Any:
        raise AssertionError("the steps were run")

    monkeypatch.setattr(torch._decomp.decompositions, "_rnn_helper", stepped)
    with whole_recurrences(), torch.no_grad():
        decomposed = program.run_decompositions(kept)
    outputs = [node.meta["val"] for node in decomposed.graph.find_nodes(op="output")[0].args[0]]
    free = program.graph.find_nodes(op="placeholder")[-1].meta["val"].shape[0]
    assert [tuple(value.shape) for value in outputs] == [(9 * free, 12), (4, free, 6), (4, free, 6)]
