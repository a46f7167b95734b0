"""Tensors of more dimensions than a format has, between two reshapes: windows of images and of films."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from idp_deploy.capturing import capture
from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.constants import fold_constants
from idp_deploy.rewriting.ranks import _moved, within
from idp_deploy.verification import verify


class Windows(nn.Module):
    """A linear layer, entries of its result seen in many dimensions, another linear layer."""

    def __init__(self, seen: Callable[[Tensor], Tensor], *, last: int = 8) -> None:
        super().__init__()
        self.seen, self.first, self.last = seen, nn.Linear(24, 48), nn.Linear(last, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.seen(self.first(x))).flatten(0, -3)


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


def _films(x: Tensor) -> Tensor:
    """Attention in windows of several films at once: nine dimensions."""
    windows = x.view(3, 1, 2, 2, 2, 2, 4, 48).permute(0, 1, 3, 5, 2, 4, 6, 7)
    q, k, v = windows.flatten(4, 6).unflatten(-1, (3, 2, 8)).movedim(-3, 0).transpose(-2, -3).unbind(0)
    attended = (q @ k.transpose(-2, -1)).softmax(-1) @ v
    back = attended.transpose(-2, -3).flatten(-2).unflatten(4, (2, 2, 4)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return back.reshape(3, 2, 4, 8, 16).unflatten(-1, (2, 8))


def _blocks(x: Tensor) -> Tensor:
    """Blocks of blocks, one order in two steps, and the largest of each."""
    x = x.view(2, 2, 2, 2, 2, 2, 2, 48).permute(0, 2, 5, 1, 3, 4, 6, 7)
    return x.reshape(2, 4, 16, 48).amax(1).unflatten(-1, (6, 8))


def _between(x: Tensor) -> Tensor:
    """Sums, norms, choices and copies in six and seven dimensions."""
    x = x.view(2, 2, 3, 2, 4, 3, 4, 4).relu()
    x = x * x.mean((2, 4), keepdim=True) + x[:, :, :1] - x.sum(-1, keepdim=True).softmax(3)
    x = torch.cat([x[:, 1:], x[:, :1]], 1).roll(1, 4).where(x > 0, x * 0.2)
    x = torch.stack([x, x.flip(-2)], 3).amax(3).transpose(1, -2) + torch.ones(3, 1, 1, 3, 1, 4)
    first, second = nn.functional.layer_norm(x.clone(), (4,), eps=0.1).chunk(2, 3)
    return (first + second.cumsum(4)).squeeze(3).float().expand(2, 4, 3, 4, 3, 2, 4).flatten(1, 4)


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
    "windows of films": (Windows(_films), (3, 2, 4, 8, 24)),
    "blocks that are put in order": (Windows(_blocks), (2, 8, 8, 24)),
    "all that is done in between": (Windows(_between, last=4), (2, 48, 24)),
}


@pytest.mark.wide
@pytest.mark.parametrize("format", [format for format in FORMATS if format in ("onnx", "coreml", "tflite")])
@pytest.mark.parametrize("name", CASES)
def test_what_lasts_for_a_few_steps_goes_to_every_format(name: str, format: FormatName, tmp_path: Path) -> None:
    net, shape = CASES[name]
    torch.manual_seed(0)
    model, inputs = one_shot(Model(net.eval()), Recipe(0.5)), (torch.randn(shape),)
    exact = {"precision": "float32"} if format == "coreml" else {}
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}", **exact).path
    assert verify(path, model, inputs).passed


@pytest.mark.wide
@pytest.mark.parametrize("most", [5, 6])
@pytest.mark.parametrize("name", CASES)
def test_nothing_has_more_dimensions_than_were_allowed(name: str, most: int) -> None:
    net, shape = CASES[name]
    x = torch.randn(shape)
    captured = capture(one_shot(Model(net.eval()), Recipe(0.5)), (x,))
    expected = captured.module(x)
    fold_constants(captured.module)
    within(captured.module, most)
    results = [
        value
        for node in captured.module.graph.nodes
        for value in tree_leaves(node.meta.get("val"))
        if value is not None
    ]
    assert max(value.dim() for value in results) <= max(most, x.dim(), expected.dim())
    torch.testing.assert_close(captured.module(x), expected)


@pytest.mark.parametrize(
    "order", [(6, 5, 4, 3, 2, 1, 0), (0, 3, 1, 4, 2, 5, 6), (5, 6, 0, 1, 2, 3, 4), tuple(range(7))]
)
def test_parts_are_moved_as_permute_does(order: tuple[int, ...]) -> None:
    shape = [2, 3, 2, 1, 4, 2, 3]
    x = torch.arange(288)
    assert torch.equal(_moved(x, shape, list(order)).flatten(), x.reshape(shape).permute(order).flatten())
