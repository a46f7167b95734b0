"""A user's project in one file: a small convolutional net and a task it can learn in a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy import Task


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 32, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def not_a_module() -> int:
    return 3


class Quadrants(Task):
    """Which quadrant of a noisy 16×16 image is bright."""

    epochs = 2

    def _data(self, samples: int, seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 4, (samples,), generator=generator)
        images = torch.randn(samples, 3, 16, 16, generator=generator) * 0.3
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[int(label) % 3, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1.0
        return TensorDataset(images, labels)

    def train_loader(self, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(self._data(128, 1), batch_size=32, shuffle=True, generator=generator)

    def validation_loader(self) -> DataLoader[Any]:
        return DataLoader(self._data(64, 2), batch_size=64)


def task() -> Task:
    return Quadrants()
