"""Nets of the unseen tasks: kinds that the other small tasks lack, a few thousand to thirty thousand weights each."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Patches(nn.Module):
    """A vision transformer: square patches, two layers with pre-norm and GELU, the mean token to classes."""

    def __init__(self, side: int, patch: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, patch, patch)
        self.places = nn.Parameter(0.1 * torch.randn((side // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 3 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, side, side) → (N, classes)."""
        tokens = self.cut(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.layers(tokens).mean(1))
        return logits


class Wide(nn.Module):
    """A block of ConvNeXt: depthwise 7×7, layer norm, four times as wide with GELU, back, scaled, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), the same shape out."""
        inner = self.down(F.gelu(self.up(self.norm(self.mix(x).permute(0, 2, 3, 1)))))
        return x + (self.scale * inner).permute(0, 3, 1, 2)


def convnext(channels: int, blocks: int, classes: int) -> nn.Module:
    """A patch stem of 4×4, blocks of ConvNeXt, average, linear."""
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 4, 4), nn.GroupNorm(1, channels)]
    layers += [Wide(channels) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Grouped(nn.Module):
    """Residual blocks with group norm and SiLU in front of each convolution, no batch norm anywhere."""

    def __init__(self, inputs: int, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, channels, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(4, channels),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, 1, 1),
                nn.GroupNorm(4, channels),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, 1, 1),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, classes)."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(F.silu(x).mean((2, 3)))
        return logits


class Mixer(nn.Module):
    """An MLP-Mixer: perceptrons over the patches and over the channels in turn."""

    def __init__(self, side: int, patch: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        count = (side // patch) ** 2
        self.cut = nn.Conv2d(1, width, patch, patch)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.over = nn.ModuleList(_perceptron(count, 2 * count) for _ in range(layers))
        self.along = nn.ModuleList(_perceptron(width, 2 * width) for _ in range(layers))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, side, side) → (N, classes)."""
        x = self.cut(x).flatten(2).transpose(1, 2)
        for place, (over, along) in enumerate(zip(self.over, self.along, strict=True)):
            x = x + over(self.norms[2 * place](x).transpose(1, 2)).transpose(1, 2)
            x = x + along(self.norms[2 * place + 1](x))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Squeezed(nn.Module):
    """Inverted residuals as MobileNetV3 has them: wider, depthwise, gated by their means, narrower; hard swish."""

    def __init__(self, inputs: int, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.Hardswish()
        )
        wide = 3 * channels
        self.up = nn.ModuleList(_unit(channels, wide, 1) for _ in range(blocks))
        self.mix = nn.ModuleList(_unit(wide, wide, 3, wide) for _ in range(blocks))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, channels), nn.ReLU(), nn.Linear(channels, wide), nn.Hardsigmoid())
            for _ in range(blocks)
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)) for _ in range(blocks)
        )
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, classes)."""
        x = self.stem(x)
        for up, mix, gate, down in zip(self.up, self.mix, self.gates, self.down, strict=True):
            inner = mix(up(x))
            x = x + down(inner * gate(inner.mean((2, 3)))[:, :, None, None])
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Gated(nn.Module):
    """A WaveNet: causal convolutions of growing reach, tanh times sigmoid, added; no norm anywhere."""

    def __init__(self, inputs: int, channels: int, layers: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(inputs, channels, 1)
        self.reach = [2**place for place in range(layers)]
        self.gates = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 3, dilation=reach) for reach in self.reach)
        self.outs = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in self.reach)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T) → (N, classes)."""
        x = self.stem(x)
        for reach, gate, out in zip(self.reach, self.gates, self.outs, strict=True):
            signal, how = gate(F.pad(x, (2 * reach, 0))).chunk(2, 1)
            x = x + out(torch.tanh(signal) * torch.sigmoid(how))
        logits: Tensor = self.head(F.relu(x).mean(2))
        return logits


class Cleaner(nn.Module):
    """A small U-Net that takes noise out: down once, up once by the nearest pixel, the fine image joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(1, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU()
        )
        self.deep = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(2 * channels, channels, 3, 1, 1), nn.ReLU()
        )
        self.out = nn.Sequential(nn.Conv2d(2 * channels, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W), the same shape out."""
        fine = self.fine(x)
        wide = F.interpolate(self.deep(fine), scale_factor=2.0, mode="nearest")
        cleaned: Tensor = x - self.out(torch.cat([fine, wide], 1))
        return cleaned


def autoencoder(inputs: int, widths: tuple[int, ...]) -> nn.Module:
    """A perceptron with a waist, as wide at its end as at its start; GELU between."""
    sizes = [inputs, *widths, *widths[-2::-1], inputs]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _perceptron(width: int, wide: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))


def _unit(before: int, after: int, kernel: int, groups: int = 1) -> nn.Module:
    convolution = nn.Conv2d(before, after, kernel, 1, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.Hardswish())
