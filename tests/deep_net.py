"""A network whose time on a neural processing unit is arithmetic: pointwise layers with many input channels."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Wide(nn.Module):
    """16 channels in, four pointwise layers of 256, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 256, 256, 256, 256)
        layers = (nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU()) for a, b in pairwise(widths))
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(x).mean((2, 3)))
        return out


def inputs() -> tuple[Tensor]:
    """One call."""
    return (torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0)),)
