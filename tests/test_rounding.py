"""Budgets of whole channels: multiples of what runtimes compute together, in every head, half and group."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy import one_shot, shrink
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.masks import Channel
from idp_deploy.pruning.layers import Layer
from idp_deploy.pruning.rounding import whole_units


class Grouped(nn.Module):
    x = (torch.randn(1, 3, 6, 6),)

    def __init__(self, channels: int = 128, groups: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.out = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class Heads(nn.Module):
    x = (torch.randn(1, 5, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 8
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(F.relu(self.out(y)).mean(1))


@pytest.mark.parametrize(("channels", "groups", "step"), [(128, 4, 8), (256, 8, 8), (64, 4, 4), (64, 16, 1)])
@pytest.mark.parametrize("target", [0.2, 0.25, 0.5, 0.75])
def test_every_group_of_a_convolution_keeps_a_multiple(target: float, channels: int, groups: int, step: int) -> None:
    module = Grouped(channels, groups)
    small = shrink(one_shot(module, sparsity=target, pattern="channel", example_inputs=module.x), module.x).module
    widths = [layer.out_channels // groups for layer in (small.a, small.b)]
    assert sum(widths) < 2 * channels // groups
    assert not any(width % step for width in widths)


@pytest.mark.parametrize("multiple", [16, 4, 3])
def test_a_multiple_counts_channels_and_not_heads(multiple: int) -> None:
    pruned = one_shot(
        Heads(),
        sparsity=0.5,
        pattern="channel",
        example_inputs=Heads.x,
        skip="out.weight",
        options={"multiple": multiple},
    )
    small = shrink(pruned, Heads.x).module
    width = small.qkv.out_features // 3
    assert width < 32
    assert width % multiple == 0


def test_a_multiple_that_no_layer_has_is_refused_with_the_widest() -> None:
    with pytest.raises(
        UsageError, match=r"option multiple is 128, .* the widest, 'a.weight', has 32 in each of 4 parts — give 4, 8 or"
    ):
        one_shot(Grouped(), sparsity=0.5, pattern="channel", example_inputs=Grouped.x, options={"multiple": 128})


@pytest.mark.filterwarnings("default:the target is")
def test_a_target_that_whole_channels_miss_is_told() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with pytest.warns(IdpDeployWarning, match=r"the target is 50.0% zeros, and units .* come to 33.3%"):
        one_shot(net, sparsity=0.5, pattern="channel", example_inputs=torch.randn(1, 3, 4, 4))
    with pytest.warns(IdpDeployWarning, match=r"a multiple below 30 comes nearer"):
        one_shot(Grouped(), sparsity=0.6, pattern="channel", example_inputs=Grouped.x, options={"multiple": 30})


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 10, 13, 50, 97, 100])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.95])
def test_odd_widths_come_as_near_as_the_channels_allow(channels: int, share: float) -> None:
    layers = [Layer("odd", torch.randn(channels, 9), Channel()), Layer("even", torch.randn(64, 9), Channel())]
    entries = sum(layer.entries for layer in layers)
    wanted = {layer.name: share * layer.entries for layer in layers}
    caps = {layer.name: layer.most_zeros for layer in layers}
    budgets = whole_units(layers, wanted, round(share * entries), caps)
    assert all(budgets[layer.name] % 9 == 0 and budgets[layer.name] <= caps[layer.name] for layer in layers)
    assert abs(sum(budgets.values()) - share * entries) <= max(0.01 * entries, 9)
