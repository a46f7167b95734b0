"""Truth values that are chosen, moved, put and counted, as masks of sequences are: in every format, at any batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import run_file
from tests.formats_here import HERE


class Marked(nn.Module):
    """A layer whose results count where a mask says so."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.mask = nn.Linear(6, 6), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.mask(x > 0, x)


def first_seen(k: Tensor, x: Tensor) -> Tensor:
    k[:, 0], k[:, -1] = True, False
    return k


def part_seen(k: Tensor, x: Tensor) -> Tensor:
    k[:, 2:4] = x[:, 2:4] > 0.5
    return k


def in_place(k: Tensor, x: Tensor) -> Tensor:
    k |= x > 1
    k &= x < 2
    k ^= x < -1
    return k


MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one of two": lambda k, x: torch.where(x > 0.3, x < 1, k),
    "one or none": lambda k, x: torch.where(x < 0.3, k, False) | torch.where(x < -1, True, k),
    "filled": lambda k, x: k.masked_fill(x < -0.3, True).masked_fill(x > 1, False),
    "first seen": first_seen,
    "part seen": part_seen,
    "in place": in_place,
    "beside a known one": lambda k, x: ((k & True) ^ True) | ((k | True) ^ False) & ((k & False) | (x > 0.5)),
    "moved": lambda k, x: k.roll(1, 1) | k.index_select(1, torch.tensor([3, 2, 1, 0])),
    "looked up": lambda k, x: k.gather(1, k.long()) ^ torch.tensor([[True], [False]])[k[..., 0].int()],
}


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
def test_masks_are_made_in_every_format(
    mask: Callable[[Tensor, Tensor], Tensor], format: FormatName, tmp_path: Path
) -> None:
    model = one_shot(Model(Marked(mask).eval()), Recipe(0.5))
    path = tmp_path / f"m{FORMATS[format].suffix}"
    export(model, format, (torch.randn(2, 4, 6),), path)
    for batch in (1, 2, 5) if FORMATS[format].free_batch else (2,):
        x = torch.randn(batch, 4, 6)
        for outputs in run_file(path, [(x.numpy(),)]).values():
            np.testing.assert_allclose(outputs[0][0], model.module(x).detach(), rtol=0, atol=5e-3)
