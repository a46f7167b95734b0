"""Tensors of more dimensions than a format has, between two reshapes: windows of images and of films."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.ranks import _moved
from idp_deploy.verification import verify


class Windows(nn.Module):
    """A linear layer, entries of its result seen in many dimensions, another linear layer."""

    def __init__(self, seen: Callable[[Tensor], Tensor], *, last: int = 8) -> None:
        super().__init__()
        self.seen, self.first, self.last = seen, nn.Linear(24, 48), nn.Linear(last, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.seen(self.first(x)))


def _queries(x: Tensor) -> Tensor:
    """Attention in windows: six dimensions, seven for a film, of which the three roles are taken apart."""
    q, k, v = x.unflatten(-1, (3, 2, 8)).movedim(-3, 0).transpose(-2, -3).unbind(0)
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def _roles(x: Tensor) -> Tensor:
    """The same by indices."""
    roles = x.reshape(2, 2, 8, 3, 2, 8).permute(3, 0, 4, 1, 2, 5)
    return roles[0] * roles[2].sigmoid() + roles[-2]


def _film(x: Tensor) -> Tensor:
    """Windows of 2×2×4 out of four pictures."""
    return x.view(1, 2, 2, 2, 2, 2, 4, 48).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(8, 16, 48).unflatten(-1, (6, 8))


def _back(x: Tensor) -> Tensor:
    """Four pictures out of such windows."""
    pictures = x.view(1, 2, 2, 2, 2, 2, 4, 48).permute(0, 1, 4, 2, 5, 3, 6, 7).contiguous()
    return pictures.view(4, 4, 8, 48).unflatten(-1, (6, 8))


class Locally(nn.Module):
    """Attention in windows whose queries are made in the windows' six or seven dimensions."""

    def __init__(self, *before: int) -> None:
        super().__init__()
        self.before, self.queries, self.last = before, nn.Linear(24, 72), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (2, 4)).unflatten(3, (2, 4)).transpose(2, 3).unflatten(0, self.before)
        q, k, v = self.queries(windows).reshape(-1, 4, 16, 3, 2, 12).permute(3, 0, 1, 4, 2, 5).unbind(0)
        attended = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(2, 3)
        return self.last(attended.reshape(-1, 2, 2, 4, 4, 24).transpose(2, 3).reshape(x.shape))


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "attention in windows": (Windows(_queries), (2, 3, 8, 24)),
    "attention in windows of a film": (Windows(_queries), (2, 2, 3, 8, 24)),
    "roles by their index": (Windows(_roles), (2, 2, 8, 24)),
    "windows of a film": (Windows(_film), (1, 4, 4, 8, 24)),
    "a film out of windows": (Windows(_back), (8, 16, 24)),
    "a layer of six dimensions": (Locally(-1), (2, 8, 8, 24)),
    "a layer of seven dimensions": (Locally(1, -1), (2, 8, 8, 24)),
}
REFUSED = {("attention in windows of a film", "coreml")}  # each role has six dimensions


@pytest.mark.parametrize("format", [format for format in FORMATS if format in ("onnx", "coreml", "tflite")])
@pytest.mark.parametrize("name", CASES)
def test_what_lasts_for_a_few_steps_goes_to_every_format(name: str, format: FormatName, tmp_path: Path) -> None:
    net, shape = CASES[name]
    model, inputs = one_shot(Model(net.eval()), Recipe(0.5)), (torch.randn(shape),)
    if (name, format) in REFUSED:
        with pytest.raises(ConversionError, match="5 dimensions at most"):
            export(model, format, inputs, tmp_path / "m.mlpackage")
        return
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    assert verify(path, model, inputs).passed


@pytest.mark.parametrize(
    "order", [(6, 5, 4, 3, 2, 1, 0), (0, 3, 1, 4, 2, 5, 6), (5, 6, 0, 1, 2, 3, 4), tuple(range(7))]
)
def test_parts_are_moved_as_permute_does(order: tuple[int, ...]) -> None:
    shape = [2, 3, 2, 1, 4, 2, 3]
    x = torch.arange(288)
    assert torch.equal(_moved(x, shape, list(order)).flatten(), x.reshape(shape).permute(order).flatten())
