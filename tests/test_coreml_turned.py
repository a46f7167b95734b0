"""Products, sums and powers of turned tensors, of which one of coremltools' passes takes the turns away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.verification import run_file

pytest.importorskip("coremltools")

MEETINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels with channels": lambda x: x @ x.mT,
    "points with points": lambda x: torch.matmul(x.transpose(2, 1), x).relu(),
    "behind an activation": lambda x: (lambda y: y.mT @ y)(x.relu()),
    "by an equation": lambda x: torch.einsum("bcn,bcm->bnm", x, x),
    "what is odd of it": lambda x: (x - x.mT) / 2,
    "side by side": lambda x: torch.cat([x, x.mT.contiguous()], 1),
    "the larger": lambda x: torch.where(x > x.mT, x, x.mT),
    "attention without layers": lambda x: torch.bmm(x, x.permute(0, 2, 1)).softmax(-1) @ x,
    "attention of torch's": lambda x: F.scaled_dot_product_attention(x, x, x),
}

EXPONENTS = torch.tensor([1.0, 2.0, 3.0, 1.5, 2.5, 0.5])
POWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "an exponent for each channel": lambda x: (x.abs() + 0.1).pow(EXPONENTS).mT,
    "exponents that are computed": lambda x: (lambda y: torch.pow(y, y.amax(1, keepdim=True)).mT)(x.sigmoid()),
    "a base for each channel": lambda x: torch.pow(EXPONENTS, x).mT,
    "a base of all": lambda x: (2**x).mT,
    "generalized means": lambda x: (x.relu() + 0.1).pow(EXPONENTS).mT.mean(1).pow(1 / EXPONENTS),
}


class Turned(nn.Module):
    """A layer whose results lie channels last, as of points or of patches, and are turned."""

    def __init__(self, meeting: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.meeting = nn.Linear(6, 6), meeting

    def forward(self, x: Tensor) -> Tensor:
        return self.meeting(self.layer(x).transpose(1, 2))


@pytest.mark.parametrize("rows", [6, 9])  # of a square both sides have one shape, and nothing stops
@pytest.mark.parametrize("name", MEETINGS)
def test_both_sides_stay(name: str, rows: int, tmp_path: Path) -> None:
    if rows != 6 and name in ("what is odd of it", "side by side", "the larger"):
        rows = 6
    model, x = CompressedModel(Turned(MEETINGS[name]).eval(), {}), torch.randn(1, rows, 6)
    path = export(model, "coreml", (x,), tmp_path / "m.mlpackage").path
    wanted = model.module(x).detach().numpy()
    for outputs in run_file(path, [(x.numpy(),)]).values():
        assert np.allclose(outputs[0][0], wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", POWERS)
def test_exponents_keep_their_axis(name: str, tmp_path: Path) -> None:
    model, x = CompressedModel(Turned(POWERS[name]).eval(), {}), torch.randn(1, 6, 6)
    path = export(model, "coreml", (x,), tmp_path / "m.mlpackage").path
    wanted = model.module(x).detach().numpy()
    for outputs in run_file(path, [(x.numpy(),)]).values():
        assert np.allclose(outputs[0][0], wanted, rtol=1e-2, atol=1e-2)
