"""Constant factors around a weight: a right file is proved, and a factor that the model does not have is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture
from idp_deploy.flow import CompressedModel
from idp_deploy.verification.factors import scaled


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.net = nn.Conv2d(3, 4, 3)
        self.register_buffer("std", torch.tensor([0.5, 0.25, 2.0]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 4.0, 8.0]).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "twice":
            x = (x - 0.5) * 2
        if self.how == "bytes":
            x = (x / 256 - 0.5) * 2
        if self.how == "channels":
            x = (x - 0.5) / self.std
        if self.how == "image":
            x = x * torch.arange(64.0).view(8, 8)
        x = self.net(x)
        return x * self.scale if self.how == "behind" else x


IN = np.array([2.0, 4.0, 0.5]).reshape(1, 3, 1, 1)
OUT = np.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1, 1)
EXPECTED = {"twice": [2.0], "bytes": [2.0, 2 / 256], "channels": [IN], "behind": [OUT], "image": [], "plain": []}


@pytest.mark.parametrize("how", EXPECTED)
def test_factors_are_those_of_the_graph(how: str) -> None:
    net = Net(how).eval()
    captured = capture(CompressedModel(net, {"net.weight": net.net.weight != 0}), (torch.rand(1, 3, 8, 8),))
    weight = net.net.weight.detach().numpy()
    found = scaled(captured.module, "net.weight", weight)
    assert len(found) == len(EXPECTED[how])
    for values, factor in zip(found, EXPECTED[how], strict=True):
        np.testing.assert_allclose(values, weight * factor, rtol=1e-6)
