"""Mixtures of experts: rows sorted by expert meet their matrix, in every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import Contents, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.formats.onnx.integers import integers_onnx
from idp_deploy.formats.tflite.integers import integers_tflite
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.rewriting.experts import grouped, histc
from idp_deploy.verification import verify


def in_turn(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """What `grouped` is to compute, matrix after matrix."""
    result, start = torch.zeros(x.shape[0], matrices.shape[2]), 0
    for matrix, end in zip(matrices, ends.tolist(), strict=True):
        result[start:end] = x[start:end] @ matrix
        start = end
    return result


@torch.library.custom_op("transformers::grouped_mm_fallback", mutates_args=())
def their_own(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """An operator of the name and the meaning that transformers has."""
    return in_turn(input, weight, offs)


@their_own.register_fake
def _(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    return input.new_empty(input.shape[0], weight.shape[2])


@pytest.mark.parametrize("ends", [[2, 2, 5, 9], [0, 0, 9, 9], [1, 3, 4, 6], [9, 9, 9, 9]])
def test_rows_meet_the_matrix_of_their_group(ends: list[int]) -> None:
    x, matrices, offsets = torch.randn(9, 4), torch.randn(4, 4, 5), torch.tensor(ends, dtype=torch.int32)
    found = grouped(x, matrices, offsets)
    assert torch.allclose(found, in_turn(x, matrices, offsets), atol=1e-6)
    x[0] = torch.inf  # of a row that no other group may see
    assert torch.isfinite(grouped(x, matrices, offsets)[1:]).all()


@pytest.mark.parametrize(("bins", "low", "high"), [(4, 0, 3), (7, 0, 6), (128, 0, 127), (5, -1.0, 2.5)])
def test_parts_are_counted_as_torch_does(bins: int, low: float, high: float) -> None:
    for x in (torch.randint(-1, bins + 2, (200,)).float(), torch.randn(200) * 2):
        assert torch.equal(histc(x, bins, low, high), torch.histc(x, bins, low, high))  # type: ignore[arg-type]
    for x in (torch.randn(50), torch.ones(5)):  # between the smallest and the largest
        assert torch.equal(histc(x, 7), torch.histc(x, 7))  # type: ignore[arg-type]


class Experts(nn.Module):
    """Two experts of four a token, sorted as transformers sorts them."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.mixed = nn.Linear(8, 4, bias=False), nn.Linear(8, 6)
        self.up = nn.Parameter(torch.randn(4, 16, 8) / 3)
        self.down = nn.Parameter(torch.randn(4, 8, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        experts, order = chosen.flatten().sort()
        counts = torch.histc(experts.float(), bins=4, min=0, max=3)
        ends = torch.cumsum(counts, 0, dtype=torch.int32)
        rows = their_own(x[order // 2], self.up.transpose(-2, -1), ends).relu()
        rows = their_own(rows, self.down.transpose(-2, -1), ends) * shares.flatten()[order].unsqueeze(-1)
        places, back = torch.arange(order.shape[0]), torch.empty_like(order)
        back[order] = places
        back = torch.minimum(back, torch.zeros_like(order).scatter(0, order, places))  # the same by another operator
        return self.mixed(rows[back].view(x.shape[0], 2, -1).sum(1))


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_a_mixture_of_experts_goes_to_every_format(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = one_shot(Model(Experts().eval()), Recipe(0.5)), (torch.randn(5, 8),)
    parity = verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed, (parity.outputs, parity.weights)


class Stacked(nn.Module):
    """A product with a stack of matrices, one an expert, behind and before plain layers."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.stack, self.head = nn.Linear(16, 16), nn.Parameter(torch.randn(shape) / 4), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.first(x).relu() @ self.stack).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(2, 16, 24), (1, 3, 16, 24)])
def test_a_product_with_a_stack_of_matrices_loads(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(2, 3, 5, 16) if len(shape) == 4 else torch.randn(2, 5, 16),)
    model = quantize(one_shot(Model(Stacked(shape).eval()), Recipe(0.8)), "int8", example_inputs=example)
    parity = verify(export(model, "onnx", example, tmp_path / "m.onnx").path, model, example)
    assert parity.passed, parity.outputs


class Routed(nn.Module):
    """The expert that has the largest score answers: a score that is rounded asks another one."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(16, 4), nn.ModuleList(nn.Linear(16, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        asked, answer = self.router(x).softmax(-1).argmax(-1, keepdim=True), torch.zeros(x.shape[0], 8)
        for place, expert in enumerate(self.experts):
            answer = torch.where(asked == place, expert(x), answer)
        return answer


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_router_is_not_rounded(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(64, 16),)
    model = quantize(one_shot(Model(Routed().eval()), Recipe(0.8)), "int8", example_inputs=inputs)
    parity = verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert max(output.max_relative_error for output in parity.outputs) < 0.05


@pytest.mark.parametrize(("format", "told"), [("onnx", integers_onnx), ("tflite", integers_tflite)])
def test_that_a_router_stays_float_is_foretold(
    format: FormatName, told: Callable[[Contents], Mapping[int, bool]], tmp_path: Path
) -> None:
    inputs = (torch.randn(64, 16),)
    path = export(
        one_shot(Model(Routed().eval()), Recipe(0.1)), format, inputs, tmp_path / f"m{FORMATS[format].suffix}"
    ).path
    contents = read(path)
    layers = [contents.ops[place] for place in told(contents) if contents.ops[place].weights]
    sizes = {tensor.name: tensor.size for tensor in contents.tensors}
    found = [sizes[name] for layer in layers for name in layer.weights.values() if sizes[name] in (4 * 16, 8 * 16)]
    assert found == [8 * 16] * 4
