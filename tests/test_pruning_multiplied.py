"""What only looks like a weight in the source of a module: tables, prototypes, divisors, filter banks, other layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.masks import prunable_weights


def kept(outputs: int = 8, inputs: int = 8, **options: bool) -> nn.Parameter:
    return nn.Parameter(torch.randn(outputs, inputs), **options)


class Codebook(nn.Module):
    """Rows are taken in one method, distances in another."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = kept()

    def near(self, x: Tensor) -> Tensor:
        return torch.argmax(x @ self.codes.t(), -1)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(self.near(x), self.codes)


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = kept()

    def forward(self, x: Tensor) -> Tensor:
        return x.pow(2).sum(1, keepdim=True) - 2 * x @ self.centres.t() + self.centres.pow(2).sum(1)


class Renamed(Prototypes):
    def forward(self, x: Tensor) -> Tensor:
        centres = self.centres
        return x @ centres.t() + torch.sum(centres * centres, 1)


class Divided(nn.Module):
    """Gates of a row each, and a divisor as large as the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gate, self.spread, self.over = kept(), kept(8, 1), kept(1, 8), kept()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight * self.gate / self.spread), self.weight / self.over)


class Filters(nn.Module):
    """A bank of filters that is not trained, before a layer that is."""

    def __init__(self) -> None:
        super().__init__()
        self.bank, self.weight = kept(requires_grad=False), kept()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x @ self.bank, self.weight)


class Bank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bank = kept(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.bank


class Handed(nn.Module):
    """A layer of its own called `linear`, that is given a table."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Bilinear(8, 8, 8), kept()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, self.table)


class Overridden(Filters):
    """Takes what its base multiplies by for tables."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[:1] + self.bank.sum()


class Turned(nn.Module):
    """A kernel that lies as (k, k, in, out), which has no axis for its outputs where a convolution has it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.permute(3, 2, 0, 1))


class Constant(nn.Module):
    """Of the product of two parameters no zeros are left."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.weight = kept(), kept()

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(self.latents, self.weight)


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, groups=8)


@pytest.mark.parametrize(
    ("made", "weights"),
    [
        (Codebook, set()), (Prototypes, set()), (Renamed, set()), (Divided, {"weight"}), (Filters, {"weight"}),
        (Handed, set()), (Overridden, set()), (lambda: nn.Sequential(Bank(), nn.PReLU()), set()),
        (Turned, set()), (Constant, set()),
    ],
)  # fmt: skip
def test_what_is_no_weight_though_one_multiplies_by_it(made: Callable[[], nn.Module], weights: set[str]) -> None:
    assert set(prunable_weights(made())) == weights


def test_a_kernel_of_one_input_channel_is_depthwise_as_torchs_are() -> None:
    assert {name: one.kind for name, one in prunable_weights(Depthwise()).items()} == {"weight": "depthwise"}


class Extended(Filters):
    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[0] != 8 or self.weight is None:
            raise ValueError
        return super().forward(x).relu()


class TurnedLinear(nn.Linear):
    """Linear by name, whose weight lies as (in, out)."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Tied(nn.Module):
    """There and back by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = kept(4, 8)
        nn.init.zeros_(self.weight[0].detach())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        return F.linear(F.linear(x, weight), weight.t())


@pytest.mark.parametrize("made", [Extended, Tied])
def test_what_is_read_in_no_other_way_than_by_products_is_a_weight(made: Callable[[], nn.Module]) -> None:
    assert set(prunable_weights(made())) == {"weight"}


def test_a_module_that_is_frozen_as_a_whole_has_weights_nonetheless() -> None:
    assert set(prunable_weights(Filters().requires_grad_(requires_grad=False))) == {"bank", "weight"}


def test_a_layer_of_torch_whose_forward_is_another_has_its_outputs_where_that_says() -> None:
    assert {name: one.output_axis for name, one in prunable_weights(TurnedLinear(8, 8)).items()} == {"weight": 1}
