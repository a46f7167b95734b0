"""capture(): what is rewritten or refused before any converter sees a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture, refuse_returned_inputs
from idp_deploy.capturing.lengths import asked_length
from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel

X = torch.arange(6.0).reshape(1, 6)


class Function(nn.Module):
    """Any function as a module."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def captured(function: Callable[[Tensor], object]):
    return capture(CompressedModel(Function(function), {}), (X,))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, x * x, alpha=2.5),
        lambda x: torch.sub(x, x * x, alpha=3),
        lambda x: torch.ops.prims.view_of(x * 2) + 1,
    ],
    ids=["add", "sub", "view_of"],
)
def test_what_converters_drop_is_spelled_out(function: Callable[[Tensor], Tensor]) -> None:
    module = captured(function).module
    assert torch.equal(module(X), function(X))
    assert all("alpha" not in node.kwargs for node in module.graph.nodes)
    assert "view_of" not in str(module.graph)


def test_one_tensor_given_as_two_inputs_is_two_inputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - 3 * y

    assert capture(CompressedModel(Two(), {}), (X, X)).module(X, 2 * X).equal(X - 6 * X)


def test_a_returned_input_is_named() -> None:
    refuse_returned_inputs(captured(lambda x: (x + 1, x * 2)), "TFLite")
    with pytest.raises(ConversionError, match="TFLite cannot hold a model that returns its input 'x' unchanged"):
        refuse_returned_inputs(captured(lambda x: (x + 1, x)), "TFLite")


def test_a_parameter_with_a_name_that_graphs_use_is_refused() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.code

    with pytest.raises(ConversionError, match="attribute 'code' already exists — rename that parameter"):
        capture(CompressedModel(Named(), {}), (X,))


@pytest.mark.parametrize(
    ("layer", "norm", "extents"),
    [
        (nn.ConvTranspose1d(8, 12, 4, 2, 1, groups=4, bias=False), nn.BatchNorm1d(12), (9,)),
        (nn.ConvTranspose2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), (5, 4)),
        (nn.ConvTranspose3d(4, 6, 2, 2), nn.BatchNorm3d(6), (3, 3, 3)),
    ],
    ids=["grouped", "depthwise", "3d"],
)
def test_batch_norm_folds_into_transposed_convolutions(layer: nn.Module, norm: nn.Module, extents: tuple) -> None:
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data = torch.rand(tensor.shape) + 0.2
    module = nn.Sequential(layer, norm).eval()
    x = torch.randn(1, layer.in_channels, *extents)
    captured = capture(CompressedModel(module, {}), (x,))
    assert [weight for weight, _ in captured.folded] == ["0.weight"]
    assert torch.allclose(captured.module(x), module(x), atol=1e-5)


class ManyReaders(nn.Module):
    """A layer with a norm behind one of its calls, and something beside the norm that reads the layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.norm = kind, nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(x)
        return self.norm(made) + (made if self.kind == "skip" else self.layer(2 * x))


@pytest.mark.parametrize(
    ("module", "norm", "shape"),
    [
        (nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8)), "1", (5, 8, 12)),
        (ManyReaders("skip"), "norm", (2, 3, 6, 6)),
        (ManyReaders("another call"), "norm", (2, 3, 6, 6)),
    ],
    ids=["over as many steps as features", "read beside the norm", "called without it"],
)
def test_batch_norm_stays_where_a_layer_cannot_hold_it(module: nn.Module, norm: str, shape: tuple[int, ...]) -> None:
    layer = module.get_submodule(norm)
    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        tensor.data = torch.rand(tensor.shape) + 0.2
    x = torch.randn(shape)
    captured = capture(CompressedModel(module.eval(), {}), (x,))
    assert not captured.folded
    assert torch.allclose(captured.module(x), module(x), atol=1e-5)


class WantsGpu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(32, device="cuda")


@pytest.mark.parametrize(
    ("module", "words", "way_out"),
    [
        (nn.Conv1d(1, 2, 80), "the model does not run on 1×1×32: ", "give it what it is used with, by --inputs"),
        pytest.param(
            WantsGpu(), "forward asks for a GPU", "device=x.device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_what_does_not_run_by_itself_is_no_fault_of_the_capture(module: nn.Module, words: str, way_out: str) -> None:
    with pytest.raises(ConversionError) as caught:
        capture(CompressedModel(module, {}), (torch.zeros(1, 1, 32),))
    assert words in caught.value.message
    assert way_out in str(caught.value.way_out)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_batch_of_one_that_goes_another_way_fixes_the_batch(samples: int) -> None:
    """Of a free size torch.export takes `size > 1` for true: a batch of one came out as zeros."""

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(0) if x.size(0) > 1 else x

    cases: list[tuple[Callable[[Tensor], Tensor], bool]] = [
        (centred, False), (lambda x: x - x.mean(0), True), (lambda x: x.squeeze() + 1, True)
    ]  # fmt: skip
    for function, is_free in cases:
        model = CompressedModel(Function(function).eval(), {})
        found = capture(model, (torch.randn(samples, 6),), dynamic_batch=True)
        assert found.dynamic_batch is is_free
        x = torch.randn(1 if is_free else samples, 6)
        torch.testing.assert_close(found.module(x), function(x))


def test_derivatives_forwards_are_named_and_those_backwards_give_the_same() -> None:
    def by(derivative: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        return lambda x: derivative(torch.tanh)(x[0]) @ x[0]

    with pytest.raises(ConversionError, match=r"jacfwd .*torch.func.jacrev"):
        captured(by(torch.func.jacfwd))
    torch.testing.assert_close(captured(by(torch.func.jacrev)).module(X), by(torch.func.jacfwd)(X))


def test_numbers_that_forward_draws_leave_the_batch_free() -> None:
    """A program and its module draw from one state when they are held against each other on one sample."""
    model = CompressedModel(Function(lambda x: x + torch.randn_like(x) * x.exp()).eval(), {})
    assert capture(model, (torch.randn(1, 6),), dynamic_batch=True).dynamic_batch


class Cast(nn.Module):
    """Casts a layer of its own in forward, as routers of experts are."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.router = self.router.to(x.dtype)
        scores: Tensor = self.router.to(x.device)(x)
        return scores


def test_a_layer_cast_to_what_it_is_stays() -> None:
    assert capture(CompressedModel(Cast().eval(), {}), (X,)).used == {"router.weight", "router.bias"}


class Normed(nn.Module):
    """A norm whose statistics forward makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(self.layer(x), torch.zeros(6), torch.ones(6) * 4)


def test_a_norm_by_numbers_that_forward_makes_stands_apart() -> None:
    net = Normed().eval()
    assert torch.allclose(capture(CompressedModel(net, {}), (X,)).module(X), net(X), atol=1e-6)


@pytest.mark.parametrize(
    ("places", "line"),
    [
        (lambda x: torch.arange(len(x))[:, None], "test_capturing.py:"),
        (lambda x: x[torch.arange(1).expand(2)][:1].detach() if x.shape[0] == 1 else x * 2, ""),
    ],
)
def test_a_batch_that_python_counts_is_told_where(places: Callable[[Tensor], Tensor], line: str) -> None:
    assert asked_length(Function(lambda x: x + places(x)), (X,)).startswith(line)
    assert bool(asked_length(Function(lambda x: x + places(x)), (X,))) is bool(line)
