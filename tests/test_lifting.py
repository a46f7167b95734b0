"""A captured graph as a program again: the same numbers as one that is traced anew, or none."""

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture, export_program
from idp_deploy.capturing.lifting import lift
from idp_deploy.flow import CompressedModel
from tests.zoo import ZOO, flat, pruned

_ASSERTED = "aten._assert_tensor_metadata.default"  # which torch.export adds to casts, and nobody reads


class Noting(nn.Module):
    """Writes to its own state in forward, before it reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.copy_(x.mean().reshape(1))
        return x - self.mean


class Tied(nn.Module):
    """One weight read twice, a constant made in forward, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        inner = self.embedding(tokens) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"inner": inner, "logits": inner @ self.embedding.weight.T}


class Branching(nn.Module):
    """Two ways through, told apart by a value."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def captured_of(module: nn.Module, *inputs: Tensor, free: bool = False):
    return capture(CompressedModel(module.eval(), {}), inputs, dynamic_batch=free)


@pytest.mark.wide
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", ["mobilenet_v2", "bert"])
def test_a_lifted_graph_is_the_one_that_tracing_gives(name, free):
    entry = ZOO[name]
    captured = capture(pruned(entry), entry.example_inputs(), dynamic_batch=free)
    lifted = lift(captured.module, captured.traced)
    traced, _ = export_program(captured.module, entry.example_inputs(), dynamic_batch=free)
    assert lifted is not None
    programs = [program.run_decompositions() for program in (lifted, traced)]
    ours, theirs = (
        [name for node in program.graph.nodes if node.op == "call_function" and (name := str(node.target)) != _ASSERTED]
        for program in programs
    )
    assert ours == theirs
    fixed = [
        all(isinstance(extent, int) for extent in program.graph.output_node().args[0][0].meta["val"].shape)
        for program in programs
    ]
    assert fixed == [not free] * 2
    expected = flat(captured.module(*entry.example_inputs()))
    for output, wanted in zip(flat(programs[0].module()(*entry.example_inputs())), expected, strict=True):
        torch.testing.assert_close(output, wanted)


def test_tied_weights_constants_and_structured_results_survive():
    tokens = torch.tensor([[1, 2, 3]])
    captured = captured_of(Tied(), tokens, free=True)
    lifted = lift(captured.module, captured.traced)
    assert lifted is not None
    for given in (tokens, torch.tensor([[4, 5, 6], [7, 8, 9]])):
        torch.testing.assert_close(lifted.run_decompositions().module()(given), captured.module(given))


def test_state_that_forward_writes_to_is_still_written():
    captured = captured_of(Noting(), torch.ones(2, 1))
    lifted = lift(captured.module, captured.traced)
    assert lifted is not None
    assert list(lifted.run_decompositions().graph_signature.buffers_to_mutate.values()) == ["mean"]


def test_branches_are_left_to_tracing():
    captured = captured_of(Branching(), torch.ones(2, 3))
    assert lift(captured.module, captured.traced) is None
    assert captured.program().module()(torch.ones(2, 3)).equal(torch.full((2, 3), 2.0))


def test_a_call_that_does_not_say_what_it_gives_is_left_to_tracing():
    captured = captured_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(2, 4))
    assert lift(captured.module, captured.traced) is not None
    next(node for node in captured.module.graph.nodes if node.op == "call_function").meta.clear()
    assert lift(captured.module, captured.traced) is None
