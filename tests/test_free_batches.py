"""Batches that stay free where torch asks for their size as a number, and the line that fixes one where none can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import export_program
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.verification import run_file


class Net(nn.Module):
    """A layer, and whatever follows."""

    table: Tensor

    def __init__(self, rest: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(6, 6), rest
        self.register_buffer("table", torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self, self.layer(x))


def ramp(net: Net, x: Tensor) -> Tensor:
    return x + torch.linspace(-1, 2, x.shape[0])[:, None]


def guided(net: Net, x: Tensor) -> Tensor:
    """As diffusion does without a classifier: both halves of one batch."""
    plain, asked = net.layer(torch.cat([x, x + 1])).chunk(2)
    return plain + 3 * (asked - plain)


def products(net: Net, x: Tensor) -> Tensor:
    return torch.kron(x, torch.tensor([[1.0, 0.5]]))


def distances(net: Net, x: Tensor) -> Tensor:
    return torch.cdist(x, net.layer(x)) + torch.cdist(x, net.layer(x), p=1)


def three_factors(net: Net, x: Tensor) -> Tensor:
    """A scan's, in the order that torch's helper finds for the sizes."""
    w = net.layer.weight
    return torch.einsum("bd,bn,bd->bdn", x, net.layer(x), x) + torch.einsum("...i,ij,jk->...k", x, w, w).unsqueeze(-1)


def among(net: Net, x: Tensor) -> Tensor:
    """As tokens that are to be left out are found."""
    best = x.argmax(1)
    kept = torch.isin(best, torch.tensor([1, 4])), torch.isin(best, 2, invert=True)
    return x * kept[0].unsqueeze(1) + kept[1].unsqueeze(1)


@pytest.mark.wide
@pytest.mark.parametrize("rest", [among, three_factors, ramp, guided, products, distances])
def test_the_batch_stays_free(rest: Callable[[Net, Tensor], Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CompressedModel(Net(rest).eval(), {})
    artifact = export(model, "onnx", (torch.randn(1, 6),), tmp_path / "m.onnx")
    assert not any("fixes its batch" in note for note in artifact.notes)
    for batch in (1, 2, 5, 30):
        x = torch.randn(batch, 6)
        (outputs,) = run_file(artifact.path, [(x.numpy(),)]).values()
        np.testing.assert_allclose(outputs[0][0], model.module(x).detach(), rtol=1e-4, atol=1e-5)


def cut(net: Net, x: Tensor) -> Tensor:
    return x + net.table[: x.shape[0]]


def asked(net: Net, x: Tensor) -> Tensor:
    return x if x.shape[0] > 5 else -x


def rows(net: Net, x: Tensor) -> Tensor:
    return torch.stack([row * 2 for row in x])


@pytest.mark.parametrize("rest", [cut, asked, rows])
def test_the_line_that_fixes_the_batch_is_named(rest: Callable[[Net, Tensor], Tensor], tmp_path: Path) -> None:
    artifact = export(CompressedModel(Net(rest).eval(), {}), "onnx", (torch.randn(1, 6),), tmp_path / "m.onnx")
    line = f"test_free_batches.py:{rest.__code__.co_firstlineno + 1}"
    said = f"the model fixes its batch: the file does too ({line} does not hold for every number of samples)"
    assert said in artifact.notes


def test_what_is_said_for_some_sizes_alone_fixes_the_batch(tmp_path: Path) -> None:
    """Running products over samples take as many steps as there are: a file for any number of them was wrong."""
    torch.manual_seed(0)
    model = CompressedModel(Net(lambda net, x: x.cumprod(0)).eval(), {})
    artifact = export(model, "onnx", (torch.randn(5, 6),), tmp_path / "m.onnx")
    assert "the model fixes its batch: the file does too" in artifact.notes
    x = torch.randn(5, 6)
    (outputs,) = run_file(artifact.path, [(x.numpy(),)]).values()
    np.testing.assert_allclose(outputs[0][0], model.module(x).detach(), rtol=1e-4, atol=1e-5)


def test_torch_is_left_as_it_was() -> None:
    before = torch.fx.experimental.symbolic_shapes.ShapeEnv._log_guard
    export_program(Net(cut).eval(), (torch.randn(1, 6),), dynamic_batch=True)
    assert torch.fx.experimental.symbolic_shapes.ShapeEnv._log_guard is before
    assert torch.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
