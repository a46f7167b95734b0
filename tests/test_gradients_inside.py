"""Forwards that take gradients themselves: forces, Hamiltonians, Jacobians, normals of surfaces, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Net(nn.Module):
    def __init__(self, taken: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1), nn.Tanh())
        self.taken = taken

    def forward(self, x: Tensor) -> Any:
        return self.taken(self.inner, x)


def forces(net: nn.Module, places: Tensor) -> dict[str, Tensor]:
    with torch.enable_grad():
        places = places.detach().requires_grad_()
        apart = (places.unsqueeze(1) - places).square().sum(-1)
        energy = net(torch.exp(-apart)[:, :6]).sum()
        return {"energy": energy.detach(), "forces": -torch.autograd.grad(energy, places)[0]}


def normals(net: nn.Module, places: Tensor) -> Tensor:
    found: Tensor = torch.func.vmap(torch.func.grad(lambda place: net(place).squeeze()))(places)
    return found / found.norm(dim=-1, keepdim=True)


def checked(module: nn.Module, format: FormatName, inputs: tuple[Tensor, ...], folder: Path) -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = one_shot(Model(module.eval()), Recipe(0.5))
    parity = verify(export(model, format, inputs, folder / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed, [part for part in (*parity.outputs, *parity.weights) if not part.passed]
    assert parity.weights


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("taken", [forces, normals])
def test_files_hold_the_operators_of_the_way_back(
    taken: Callable[[nn.Module, Tensor], Any], format: FormatName, tmp_path: Path
) -> None:
    checked(Net(taken), format, (torch.randn(6, 6),), tmp_path)


class Edges(nn.Module):
    """What a network of convolutions, strides and a transposed one among them, looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, 1), nn.Softplus(), nn.ConvTranspose2d(4, 4, 2, 2), nn.Softplus(), nn.Conv2d(4, 1, 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        with torch.enable_grad():
            image = image.detach().requires_grad_()
            return torch.autograd.grad(self.inner(image).square().sum(), image)[0]


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_layers_of_images_are_gone_back_through(format: FormatName, tmp_path: Path) -> None:
    checked(Edges(), format, (torch.randn(1, 2, 8, 9),), tmp_path)


class Slopes(nn.Module):
    """The gradient of a linear layer is its weight, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Linear(6, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            return self.outer(x) * torch.autograd.grad(self.inner(place).sum(), place)[0]


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_gradient_that_no_input_changes_is_a_constant(batch: int, format: FormatName, tmp_path: Path) -> None:
    checked(Slopes(), format, (torch.randn(batch, 6),), tmp_path)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_jacobians_go_to_every_format(format: FormatName, tmp_path: Path) -> None:
    net = Net(lambda inner, x: torch.func.vmap(torch.func.jacrev(lambda place: inner[:3](place).tanh()))(x))
    checked(net, format, (torch.randn(2, 6),), tmp_path)
