"""Nets of the small tasks: a few thousand weights each, of different kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def separable(inputs: int, channels: Sequence[int], strides: Sequence[int], classes: int, stem: int = 2) -> nn.Module:
    """3×3 stem of stride `stem`, depthwise-separable blocks with batch norm, average, linear."""
    layers = _unit(inputs, channels[0], stride=stem)
    for before, after, stride in zip(channels, channels[1:], strides, strict=False):
        layers += _unit(before, before, stride=stride, groups=before) + _unit(before, after, kernel=1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def six_blocks() -> nn.Module:
    """A separable net of 38,720 weights for 36 classes, laid out in memory as it computes fastest."""
    model = separable(1, (16, 32, 64, 64, 128, 128), (2, 1, 2, 1, 1), 36)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def convolutions(inputs: int, channels: Sequence[int], classes: int) -> nn.Module:
    """Plain 3×3 convolutions of stride 2 with batch norm, average, linear."""
    layers: list[nn.Module] = []
    for before, after in zip([inputs, *channels], channels, strict=False):
        layers += _unit(before, after, stride=2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def sequence(inputs: int, channels: int, blocks: int, classes: int, groups: bool) -> nn.Module:
    """A stem of width 5, blocks of width 5 over time, depthwise-separable with `groups`, average, linear."""
    layers = _unit1d(inputs, channels, stride=2)
    for _ in range(blocks):
        if groups:
            layers += _unit1d(channels, channels, groups=channels) + _unit1d(channels, channels, kernel=1)
        else:
            layers += _unit1d(channels, channels, stride=2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))


def perceptron(sizes: Sequence[int], norm: bool = False) -> nn.Module:
    """Linear layers with ReLU between, behind a layer norm each with `norm`."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after), *([nn.LayerNorm(after)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Residual(nn.Module):
    """A stem and residual blocks of two 3×3 convolutions, each halving the image."""

    def __init__(self, inputs: int, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_unit(inputs, channels[0], stride=2))
        pairs = list(pairwise(channels))
        self.blocks = nn.ModuleList(
            nn.Sequential(*_unit(a, b, stride=2), nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b))
            for a, b in pairs
        )
        self.ways = nn.ModuleList(nn.Conv2d(a, b, 1, 2, bias=False) for a, b in pairs)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, classes)."""
        x = self.stem(x)
        for block, way in zip(self.blocks, self.ways, strict=True):
            x = torch.relu(block(x) + way(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Hourglass(nn.Module):
    """Down twice, up twice, with the fine image joined again: one logit a pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*_unit(1, channels, stride=2))
        self.deep = nn.Sequential(*_unit(channels, 2 * channels, stride=2), *_unit(2 * channels, 2 * channels))
        self.up = nn.Sequential(nn.ConvTranspose2d(2 * channels, channels, 2, 2), nn.BatchNorm2d(channels), nn.ReLU())
        self.out = nn.Sequential(
            nn.ConvTranspose2d(2 * channels, channels, 2, 2), nn.ReLU(), nn.Conv2d(channels, 1, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) → (N, H, W)."""
        fine = self.down(x)
        logits: Tensor = self.out(torch.cat([self.up(self.deep(fine)), fine], 1)).squeeze(1)
        return logits


class Reader(nn.Module):
    """Embeddings, transformer layers, and the first token's state to classes."""

    def __init__(self, words: int, length: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Parameter(0.1 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, length) → (N, classes)."""
        logits: Tensor = self.head(self.layers(self.words(tokens) + self.places)[:, 0])
        return logits


class Listener(nn.Module):
    """Convolutions over time, a GRU, and two linear layers on its last state."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.front = nn.Sequential(*_unit1d(inputs, width, stride=2), *_unit1d(width, width, stride=2))
        self.memory = nn.GRU(width, width // 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(width // 2, 2 * width), nn.ReLU(), nn.Linear(2 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T) → (N, classes)."""
        states, _ = self.memory(self.front(x).transpose(1, 2))
        logits: Tensor = self.head(states[:, -1])
        return logits


class Spoken(nn.Module):
    """Recurrent layers alone, "GRU" or "LSTM": frames in, the last state of the last layer to classes."""

    def __init__(self, kind: str, inputs: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.memory = getattr(nn, kind)(inputs, width, layers, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T) → (N, classes)."""
        logits: Tensor = self.head(self.memory(x.transpose(1, 2))[0][:, -1])
        return logits


def _unit(before: int, after: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[Any]:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]


def _unit1d(before: int, after: int, *, kernel: int = 5, stride: int = 1, groups: int = 1) -> list[Any]:
    convolution = nn.Conv1d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm1d(after), nn.ReLU()]


class Remembering(nn.Module):
    """A linear step of width `channels` and an LSTM over time, whose states on average go to classes."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, channels)
        self.memory = nn.LSTM(channels, channels, batch_first=True)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T) → (N, classes)."""
        states, _ = self.memory(torch.relu(self.stem(x.transpose(1, 2))))
        logits: Tensor = self.head(states.mean(1))
        return logits
