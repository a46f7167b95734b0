"""Infinities that networks look for: nodes without neighbours get 0 for one over the root of their degree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.verification import run_file
from tests.formats_here import HERE


def looked_for(degree: Tensor) -> Tensor:
    found = degree.rsqrt()
    return torch.where(torch.isinf(found), 0.0, found)


def compared(degree: Tensor) -> Tensor:
    found = degree.rsqrt()
    found[found == float("inf")] = 0
    return found


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "looked for": looked_for,
    "compared": compared,
    "replaced": lambda degree: degree.rsqrt().nan_to_num(posinf=0.0),
    "finite alone": lambda degree: degree.rsqrt().masked_fill(~torch.isfinite(degree.rsqrt()), 0.0),
    "kept from zero": lambda degree: (degree + 1e-3).rsqrt() - degree.clamp(min=1).rsqrt(),
}


class Graph(nn.Module):
    """A step of a graph network, whose neighbours an input tells."""

    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), norm

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        shares = self.norm(near.sum(-1))
        return self.layer((shares[:, :, None] * near * shares[:, None]) @ x)


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", NORMS)
def test_nodes_without_neighbours_get_nothing(name: str, format: FormatName, tmp_path: Path) -> None:
    model, near = CompressedModel(Graph(NORMS[name]).eval(), {}), (torch.rand(1, 5, 5) > 0.4).float()
    near[0, 2] = near[0, :, 2] = 0
    inputs = torch.randn(1, 5, 3), near
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    wanted = model.module(*inputs).detach().numpy()
    for outputs in run_file(path, [tuple(x.numpy() for x in inputs)]).values():
        assert np.allclose(outputs[0][0], wanted, rtol=1e-2, atol=1e-2)
