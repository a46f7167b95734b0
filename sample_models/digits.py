"""Real handwriting: the 1,797 digits that ship with scikit-learn, as 32×32 RGB images.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
the test part: 8×8 images with 17 grey levels from 13 writers. They are enlarged bilinearly, copied to three channels
and brought to zero mean and unit variance, so that a network made for photographs takes them as they are. Training
images come three times, two of them shifted: without that a MobileNet-v1 stops at 98 % instead of 99 %.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.tasks import Task

SIZE = 32  # pixels along a side
VALIDATION = 540  # of 1,797 images, drawn once with seed 0 whatever the training seed
MEAN, DEVIATION = 0.3053, 0.3236  # of the enlarged pixels in [0, 1] over all images


class Digits(Task):
    """Ten classes; batches of (images (N, 3, 32, 32) float32, labels (N,) int64)."""

    epochs = 12
    learning_rate = 0.05

    def __init__(self, batch_size: int = 64) -> None:
        images, labels = load()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        held_out, rest = order[:VALIDATION], order[VALIDATION:]
        self.train = TensorDataset(with_shifted(images[rest]), labels[rest].repeat(3))
        self.validation = TensorDataset(images[held_out], labels[held_out])
        self.batch_size = batch_size

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """1,257 images and two shifted copies of each, shuffled by `seed`; the incomplete last batch is dropped."""
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=generator)

    def validation_loader(self) -> DataLoader[Any]:
        """540 images that training never sees."""
        return DataLoader(self.validation, 180)


def task() -> Digits:
    """Digits with the settings of the demo."""
    return Digits()


def load() -> tuple[Tensor, Tensor]:
    """All images (1797, 3, 32, 32), normalised, and their labels (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    return ((images - MEAN) / DEVIATION).expand(-1, 3, -1, -1).contiguous(), labels


def with_shifted(images: Tensor, pixels: int = 2) -> Tensor:
    """(n, 3, H, W) → (3n, 3, H, W): the images, then copies shifted forth and back, even ones in y, odd in x."""
    even = (torch.arange(len(images)) % 2 == 0)[:, None, None, None]
    copies = [torch.where(even, images.roll(by, 2), images.roll(by, 3)) for by in (pixels, -pixels)]
    return torch.cat([images, *copies])
