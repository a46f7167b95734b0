"""Constant factors around a weight: a right file is proved, and a factor that the model does not have is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture
from idp_deploy.flow import CompressedModel, StoredTensor
from idp_deploy.verification.entries import Reference, Stored
from idp_deploy.verification.factors import copies, scaled
from idp_deploy.verification.proof import _from_copies


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
        if self.how == "negative":
            x = (1 - x) * 2
        if self.how == "below":
            x = self.std - x
        x = self.net(x)
        if self.how == "turned":
            return -x
        if self.how == "from one":
            return 1 - x
        return x * self.scale if self.how == "behind" else x


IN = np.array([2.0, 4.0, 0.5]).reshape(1, 3, 1, 1)
OUT = np.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1, 1)
EXPECTED = {"twice": [2.0], "bytes": [2.0, 2 / 256], "channels": [IN], "behind": [OUT], "image": [], "plain": []}
EXPECTED |= {"negative": [2.0, -2.0], "below": [-1.0], "turned": [-1.0], "from one": [-1.0]}


@pytest.mark.parametrize("how", EXPECTED)
def test_factors_are_those_of_the_graph(how: str) -> None:
    net = Net(how).eval()
    captured = capture(CompressedModel(net, {"net.weight": net.net.weight != 0}), (torch.rand(1, 3, 8, 8),))
    weight = net.net.weight.detach().numpy()
    found = scaled(captured.module, "net.weight", weight)
    assert len(found) == len(EXPECTED[how])
    for values, factor in zip(found, EXPECTED[how], strict=True):
        np.testing.assert_allclose(values, weight * factor, rtol=1e-6)


class Shared(nn.Module):
    """One convolution on two levels, each with a norm of its own behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 4, 3, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        for norm in self.norms:
            norm.weight.data.uniform_(0.5, 2)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.norms[0](self.head(x)), self.norms[1](self.head(x * x))


def test_a_layer_called_twice_is_two_weights_times_its_norms_and_both_must_be_there() -> None:
    net, inputs = Shared().eval(), (torch.rand(1, 3, 8, 8),)
    captured = capture(CompressedModel(net, {"head.weight": net.head.weight != 0}), inputs)
    weight = net.head.weight.detach().numpy()
    found = copies(captured.module, "head.weight", weight)
    factors = [(n.weight / (n.running_var + n.eps).sqrt()).detach().numpy() for n in net.norms]  # type: ignore[operator,union-attr]
    assert len(found) == 2
    for (plain, times), factor in zip(found, factors, strict=True):
        np.testing.assert_array_equal(plain, weight)
        np.testing.assert_allclose(times, weight * factor.reshape(4, 1, 1, 1), rtol=1e-6)
    stored = [Stored(tensor_of(f"copy{i}", one[1])) for i, one in enumerate(found)]
    whole = Reference("head.weight", weight, quantized=False)
    proof = _from_copies(captured, whole, stored, exact=True)
    assert proof is not None
    assert proof.passed
    assert proof.tensor == "copy0 + copy1"
    assert _from_copies(captured, whole, stored[:1], exact=True) is None
    wrong = Stored(tensor_of("wrong", found[1][1] * np.float32(1.01)))
    assert _from_copies(captured, whole, [stored[0], wrong], exact=True) is None


def tensor_of(name: str, values: np.ndarray) -> StoredTensor:
    zeros = int((values == 0).sum())
    return StoredTensor(name, values.shape, "float32", "dense", values.nbytes, zeros, values=lambda: values)
