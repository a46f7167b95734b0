"""Networks whose weights a converter would like to rewrite: shared ones, scaled ones, transposed ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeaturePyramid(nn.Module):
    """One head on two levels, with batch norms of its own on each; a learned factor a level behind the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deeper = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.lateral = nn.Conv2d(24, 16, 1)
        self.head = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.boxes = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=1) for _ in range(2))
        self.factors = nn.Parameter(torch.tensor([0.7, 2.0]))

    def forward(self, image: Tensor) -> dict[str, list[Tensor]]:
        fine = F.relu(self.stem(image))
        coarse = self.lateral(F.relu(self.deeper(fine)))
        levels = [fine + F.interpolate(coarse, scale_factor=2, mode="nearest"), coarse]
        features = [F.relu(norm(self.head(level))) for norm, level in zip(self.norms, levels, strict=True)]
        return {
            "boxes": [box(f) * self.factors[i] for i, (box, f) in enumerate(zip(self.boxes, features, strict=True))]
        }


def decoder() -> nn.Module:
    """Transposed convolutions that crop, that extend beyond their input, that have stride 1."""
    return nn.Sequential(
        nn.ConvTranspose2d(12, 12, 3, 2, 1, output_padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 10, (5, 3), (2, 1), (2, 1), output_padding=(1, 0)), nn.ReLU(),
        nn.ConvTranspose2d(10, 8, 2, 2, output_padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, 1, 1),
    )  # fmt: skip


class Cell(nn.Module):
    """A GRU cell stepped by hand; its last state is an output and the input of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.states, self.out = nn.Linear(8, 48), nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        for step in range(x.shape[1]):
            given, kept = self.inputs(x[:, step]).chunk(3, 1), self.states(state).chunk(3, 1)
            reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
            state = update * state + (1 - update) * torch.tanh(given[2] + reset * kept[2])
        return self.out(state), state
