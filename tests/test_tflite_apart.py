"""What litert-torch would run together: copies and orders, factors and weights, matrices in a stack, windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify


class Spread(nn.Module):
    """A linear layer, and copies of what it gives."""

    def __init__(self, spread: Callable[[Tensor, Spread], Tensor]) -> None:
        super().__init__()
        self.layer, self.spread, self.places = nn.Linear(4, 4), spread, nn.Parameter(torch.randn(7, 4))
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(2, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.spread(self.layer(x), self)


def beside_each_other(x: Tensor, net: Spread) -> Tensor:
    """Attention with relative places, as in BoTNet: a shear by two borders and a reshape, then copies for all rows."""
    x = F.pad((x.reshape(2, 4, 4) @ net.places.t()).reshape(-1, 4, 7), (0, 1)).flatten(1)
    x = F.pad(x, (0, 3)).reshape(-1, 5, 7)[:, :4, 3:].reshape(1, 2, 1, 4, 4).expand(-1, -1, 2, -1, -1)
    return x.permute(0, 1, 3, 2, 4).reshape(1, 8, 8)


WAYS: dict[str, tuple[Callable[[Tensor, Spread], Tensor], tuple[int, ...]]] = {
    "three axes": (lambda x, _: x.expand(-1, 3, -1).permute(2, 1, 0) * 2, (2, 1, 4)),
    "two of four": (lambda x, _: x.expand(-1, 3, -1, -1).transpose(2, 3) * 2, (2, 1, 5, 4)),
    "to another's extents": (lambda x, net: x.expand_as(net.zeros).mT + 1, (2, 1, 4)),
    "after a copy": (lambda x, _: x.expand(-1, 3, -1).contiguous().swapaxes(1, 2) * 2, (2, 1, 4)),
    "keys of one head": (lambda x, _: x @ x[:, :1].expand(-1, 3, -1, -1).transpose(-1, -2), (2, 3, 5, 4)),
    "a sum with zeros": (lambda x, net: (x + net.zeros).transpose(1, 2) * 2, (2, 1, 4)),
    "a product with ones": (lambda x, net: (x * (net.zeros + 1)).movedim(1, 2) * 2, (2, 1, 4)),
    "zeros like another": (lambda x, _: (x[:, :1] + torch.zeros_like(x)).transpose(1, 2) * 2, (2, 3, 4)),
    "relative places": (beside_each_other, (1, 2, 4, 4)),
}


@pytest.mark.wide
@pytest.mark.parametrize("way", WAYS)
def test_copies_change_places_as_the_model_has_it(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spread, shape = WAYS[way]
    inputs = (torch.randn(shape),)
    model = one_shot(Model(Spread(spread).eval()), Recipe(0.5))
    parity = verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs)
    assert parity.passed
    assert max(output.max_relative_error for output in parity.outputs) < 1e-5


SCALED: dict[str, Callable[[Tensor], Tensor]] = {
    "a cap on logits": lambda x: 30 * torch.tanh(x.float() / 30),
    "in double": lambda x: (x.double() / 30).float(),
    "detached": lambda x: x.detach() * 0.5,
    "of the same type": lambda x: x.type_as(torch.ones(1)) * 0.25,
}


@pytest.mark.wide
@pytest.mark.parametrize("way", SCALED)
def test_a_factor_behind_a_cast_stays_out_of_the_weight(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = one_shot(Model(Spread(lambda x, _: SCALED[way](x)).eval()), Recipe(0.5))
    inputs = (torch.randn(2, 3, 4),)
    parity = verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs)
    assert parity.passed, parity.weights


class Between(nn.Module):
    """A norm, a linear layer and a scale, and what gives back what it takes between each two."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between, self.norm, self.layer = between, nn.LayerNorm(8), nn.Linear(8, 8)
        self.norm.weight.data.uniform_(0.5, 2)
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.layer(self.between(self.norm(x)))) * self.scale


GIVEN_BACK: dict[str, Callable[[Tensor], Tensor]] = {
    "pieces put together": lambda x: torch.cat([x[:, :2], x[:, 2:]], 1),  # as in Emformer
    "nothing beside it": lambda x: torch.cat([x, torch.zeros(2, 0, 8)], 1),
    "entries in their order": lambda x: x[:, [0, 1, 2, 3]],
    "a border of nothing": lambda x: F.pad(x, (0, 0, 0, 0)),
    "a sum of one": lambda x: x.unsqueeze(1).cumsum(1).squeeze(1),
    "a mask that hides nothing": lambda x: torch.where(torch.ones(4, 1, dtype=torch.bool), x, 0.0),
    "once around": lambda x: torch.roll(x, 4, 1),
    "there and back": lambda x: x.movedim(0, 1).movedim(1, 0),
    "the first power": lambda x: x.pow(1),
    "of its type": lambda x: x.type_as(x.sin()).positive(),
}


@pytest.mark.wide
@pytest.mark.parametrize("way", GIVEN_BACK)
def test_a_factor_behind_what_gives_back_what_it_takes_stays_out_of_the_weight(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = one_shot(Model(Between(GIVEN_BACK[way]).eval()), Recipe(0.5)), (torch.randn(2, 4, 8),)
    parity = verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs)
    assert parity.passed, parity.weights


class Context(nn.Module):
    """What an image shows on the whole, added everywhere: a mean of its pixels by shares, a product of two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.shares = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pixels(image)
        shares = self.shares(x).flatten(2).softmax(-1).unsqueeze(3)
        return x + (x.flatten(2).unsqueeze(1) @ shares).reshape(x.shape[0], 8, 1, 1)


@pytest.mark.wide
@pytest.mark.parametrize("batch", [1, 2])
def test_a_product_of_two_matrices_alone_keeps_its_rank(batch: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = one_shot(Model(Context().eval()), Recipe(0.5)), (torch.randn(batch, 3, 4, 4),)
    assert verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs).passed


class Styles(nn.Module):
    """How alike the places of two sequences are, as features of convolutions tell: products of two activations."""

    def __init__(self, alike: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.conv, self.alike = nn.Linear(8, 6), nn.Conv1d(6, 6, 1), alike

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.alike(*(self.conv(self.layer(of).permute(0, 2, 1)) for of in (x, y)))


ALIKE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "turned": lambda x, y: x.mT @ y,
    "turned and copied": lambda x, y: torch.bmm(x.permute(0, 2, 1).contiguous(), y) * 2,
    "turned and bent": lambda x, y: (x.mT * 2).relu() @ y,
    "without a stack": lambda x, y: x[0].T @ y[0],
    "one after the other": lambda x, y: x.mT @ y @ x.mT,
}


@pytest.mark.wide
@pytest.mark.parametrize("way", ALIKE)
def test_a_turned_matrix_is_multiplied_as_it_is_then(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = one_shot(Model(Styles(ALIKE[way]).eval()), Recipe(0.5)), (torch.randn(1, 12, 8),) * 2
    assert verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs).passed


class Halo(nn.Module):
    """Windows over an image that lie over each other, rows first, then columns: six axes on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        windows = F.pad(self.pixels(image), (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)
        return windows.flatten(2, 3).flatten(3).softmax(-1)


def test_windows_of_windows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = one_shot(Model(Halo().eval()), Recipe(0.5)), (torch.randn(1, 3, 8, 8),)
    assert verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs).passed
