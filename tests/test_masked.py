"""What is read where a mask is true, worked on and put back or added up, is computed of all entries and chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.masked import choose_for_masks
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Net(nn.Module):
    def __init__(self, rest: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.rest = nn.Linear(6, 6), rest

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.linear(x).clone(), x)


def in_place(h: Tensor, x: Tensor) -> Tensor:
    h[x > 0] += 1.0
    h[x < -1] *= 0.5
    return h


def of_a_part(h: Tensor, x: Tensor) -> Tensor:
    h[:, 1:3][x[:, 1:3] > 0] -= 1.0
    return h


def mask_said_twice(h: Tensor, x: Tensor) -> Tensor:
    h[x > 0] = torch.tanh(x[x > 0]) * 2 - h[x > 0]
    return h


def of_itself(h: Tensor, x: Tensor) -> Tensor:
    h[h < 0] = -h[h < 0]
    return h


def one_after_the_other(h: Tensor, x: Tensor) -> Tensor:
    kept = h > 0.3
    h[kept] = h[kept].sqrt()
    h[h > 0.6] = 1 - h[h > 0.6]
    h[~kept] = 0
    return h


def rows(h: Tensor, x: Tensor) -> Tensor:
    kept, weights, y = x[..., 0] > 0, x.sum(-1), torch.zeros_like(h)
    y[kept] = torch.softmax(h[kept] * x[kept], -1) * x[kept][:, :1]
    y[kept] += weights[kept].unsqueeze(1) * nn.functional.layer_norm(h[kept], (6,))
    return y


def sums(h: Tensor, x: Tensor) -> Tensor:
    kept = x[..., 0] > 0
    means = h[kept].mean(0) + (h[kept] ** 2).mean()
    return means + h[kept].sum(0) + torch.masked_select(h, x > 0).sum() + h[x > 0.1].mean()


RIGHT = (in_place, of_a_part, mask_said_twice, of_itself, one_after_the_other, rows, sums)


@pytest.mark.parametrize("rest", RIGHT)
def test_the_numbers_stay_the_same_whatever_the_mask(rest: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net = Net(rest).eval()
    inputs = [torch.randn(2, 4, 6) for _ in range(3)] + [torch.full((2, 4, 6), sign) for sign in (1.5, -1.5)]
    module = capture(CompressedModel(net, {}, Recipe()), (inputs[0],)).module
    choose_for_masks(module)
    assert not any(word in str(n.target) for word in ("index.Tensor", "masked_select") for n in module.graph.nodes)
    for x in inputs:
        assert torch.allclose(module(x), net(x), atol=1e-6, equal_nan=True)


class Experts(nn.Module):
    """Each of two perceptrons for the rows that choose it, first or second."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.gate(x).softmax(-1).topk(2, -1)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            for place in range(2):
                here = chosen[:, place] == number
                result[here] += shares[here, place, None] * expert(x[here])
        return result


class Routed(Experts):
    """The same by the places of rows, as Mistral has it, added up and put back."""

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.gate(x).softmax(-1).topk(2, -1)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, which = torch.where(chosen == number)
            result[rows] += shares[rows, which, None] * expert(x[rows])
            result = result.index_add(0, rows, expert(x[rows]) * shares[rows, which, None])
            rows = (chosen[:, 0] == number).nonzero().squeeze(-1)
            result.index_add_(0, rows, x[rows])
        return result


def test_routed_rows_keep_their_numbers() -> None:
    torch.manual_seed(0)
    net, x = Routed().eval(), torch.randn(7, 8)
    module = capture(CompressedModel(net, {}, Recipe()), (x,)).module
    choose_for_masks(module)
    words = ("index", "where.default", "nonzero", "assert")
    assert not any(word in str(n.target) for word in words for n in module.graph.nodes)
    for other in (x, torch.randn(7, 8), torch.ones(7, 8)):
        assert torch.allclose(module(other), net(other), atol=1e-6)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("build", [Experts, Routed, *(lambda rest=rest: Net(rest) for rest in (in_place, rows, sums))])
def test_the_file_is_right(build: Callable[[], nn.Module], format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(7, 8) if isinstance(module, Experts) else torch.randn(2, 4, 6)
    model = one_shot(Model(module), Recipe(0.5, options={"rules": {"matrix": "unstructured"}}))
    parity = verify(export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path, model, (x,))
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]
    assert len(parity.weights) == len(model.masks)


def added_to_in_between(h: Tensor, x: Tensor) -> Tensor:
    kept, y = x > 0, torch.zeros_like(h)
    values = h[kept] * 2
    h.add_(1)
    y[kept] = values + h[kept]
    return y


def along_the_entries(h: Tensor, x: Tensor) -> Tensor:
    h[x > 0] = h[x > 0].cumsum(0)
    return h


@pytest.mark.parametrize("rest", [added_to_in_between, along_the_entries])
def test_what_is_not_entry_by_entry_is_refused(rest: Callable[[Tensor, Tensor], Tensor], tmp_path: Path) -> None:
    model, x = CompressedModel(Net(rest).eval(), {}, Recipe()), (torch.randn(2, 4, 6),)
    module = capture(model, x).module
    choose_for_masks(module)
    assert torch.equal(module(*x), model.module(*x))
    with pytest.raises(ConversionError, match="numbers in"):
        export(model, "coreml", x, tmp_path / "m.mlpackage")
