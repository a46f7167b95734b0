"""What is known before: how many entries a buffer chooses, by truths or by places, and single learned numbers."""

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

CHOSEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "columns": lambda x, keep: x[..., keep],
    "rows of a picture": lambda x, keep: x[:, keep[:4]],
    "entries of a picture": lambda x, keep: x[:, keep[:4, None] & keep],
    "beside places": lambda x, keep: x[torch.tensor([1, 0]), 2][:, keep],
    "places": lambda x, keep: x.index_select(-1, keep.nonzero().squeeze(1)),
    "what is not zero": lambda x, keep: x[..., torch.where(keep)[0]] * keep.sum(),
    "written": lambda x, keep: x.masked_fill(~keep, 0)[..., keep.nonzero(as_tuple=True)[0] - 1],
}


class Choosing(nn.Module):
    """A layer, of whose result a buffer chooses entries."""

    def __init__(self, chosen: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.chosen = nn.Linear(6, 9), chosen
        self.register_buffer("keep", torch.arange(9) % 3 != 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.chosen(self.layer(x), self.keep)


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", CHOSEN)
def test_what_a_buffer_chooses_is_in_the_file(name: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = CompressedModel(Choosing(CHOSEN[name]).eval(), {}), torch.randn(2, 4, 6)
    path = export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path
    wanted = model.module(x).detach().numpy()
    for ((found,),) in run_file(path, [(x.numpy(),)]).values():
        assert found.shape == wanted.shape
        assert np.allclose(found, wanted, atol=1e-2)


class Differential(nn.Module):
    """As of differential attention: how much is taken away is a number made of vectors that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.base = nn.Linear(6, 9), nn.Parameter(torch.tensor(0.3))
        self.first, self.second = (nn.Parameter(torch.randn(4) / 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        share = torch.exp(torch.sum(self.first * self.second, -1)) - torch.exp(self.first[1]) + self.base
        return self.layer(x) - share * x.mean(-1, keepdim=True)


@pytest.mark.parametrize("format", HERE)
def test_a_single_number_made_of_vectors_is_computed_before(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = CompressedModel(Differential().eval(), {}), torch.randn(1, 4, 6)
    path = export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path
    for ((found,),) in run_file(path, [(x.numpy(),)]).values():
        assert np.allclose(found, model.module(x).detach().numpy(), atol=1e-2)
