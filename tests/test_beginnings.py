"""Whether a model has learned anything yet, told by what its layers are made with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.pruning import Pruner
from idp_deploy.pruning.beginnings import looks_untrained


class Scaled(nn.Module):
    """A root-mean-square norm as language models write it themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x.unsqueeze(1))[0][:, -1])


def _xavier() -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
    "layer norm": lambda: nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3)),
    "group norm": lambda: nn.Sequential(nn.Linear(8, 16), nn.GroupNorm(4, 16), nn.ReLU(), nn.Linear(16, 3)),
    "a norm of one's own": lambda: nn.Sequential(nn.Linear(8, 16), Scaled(16), nn.ReLU(), nn.Linear(16, 3)),
    "layers alone": lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)),
    "without biases": lambda: nn.Sequential(nn.Linear(8, 64, bias=False), nn.ReLU(), nn.Linear(64, 3, bias=False)),
    "weights drawn otherwise": _xavier,
    "a GRU": Recurrent,
    "a transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(8, 3)
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_model_is_untrained_until_it_has_learned(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    assert looks_untrained(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    x = torch.randn(256, 8)
    wanted = x[:, :3].argmax(1)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(net(x), wanted).backward()
        optimizer.step()
    assert not looks_untrained(net)


@pytest.mark.parametrize("name", ["layer norm", "layers alone", "a GRU"])
def test_an_untrained_model_learns_densely_first_whatever_its_norms(name: str) -> None:
    net = NETS[name]()
    pruner = Pruner(net, sparsity=0.5, epochs=1, steps_per_epoch=100)
    assert (pruner.schedule.dense_until, pruner.schedule.ramp) == (20, 40)


def test_a_trained_backbone_with_a_fresh_head_counts_as_trained() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    nn.init.normal_(net[1].weight, 1.0, 0.1)
    assert not looks_untrained(net)


def test_where_nothing_tells_a_model_counts_as_trained() -> None:
    net = nn.Linear(8, 3, bias=False)
    nn.init.normal_(net.weight)
    assert not looks_untrained(net)
    assert not looks_untrained(nn.Flatten())
