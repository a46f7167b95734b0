"""Images in folders, one folder a class: `train/<class>/*.jpg` and `val/<class>/*.jpg`.

Training takes a random part of the image, 8 to 100 % of its area, at `size`, and mirrors half of them (Szegedy et al.
2014, arXiv 1409.4842); validation scales the shorter side to 256 for 224 and takes the centre. What is drawn depends on
seed, epoch and image alone, so that neither the number of workers nor a resumed run changes it.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idp_deploy.errors import FileError, UsageError
from idp_deploy.tasks import Task
from sample_models.recipes.classes import check_classes

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pixels in [0, 1], as published models take them
DEVIATION = (0.229, 0.224, 0.225)
LAYOUT = "lay images out as train/<class>/*.jpg and val/<class>/*.jpg"


class ImageFolder(Task):
    """Batches of (images (N, 3, size, size) float32 of about unit variance, labels (N,) int64).

    Classes are numbered in the order of their folders' names.

    Args:
        folder: holds `train` and `val`.
        size: pixels along a side.
        workers: processes that decode images beside training.

    Raises:
        FileError: a folder that is missing, a class without images, a class in `val` that `train` lacks.
        UsageError: a size or batch size below 1.
    """

    metric_name = "top-1"
    epochs = 100

    def __init__(
        self,
        folder: str = "imagenet",
        size: int = 224,
        batch_size: int = 256,
        workers: int = 4,
        learning_rate: float = 0.1,
    ) -> None:
        if size < 1 or batch_size < 1 or workers < 0:
            raise UsageError(f"size {size}, batch size {batch_size}, {workers} workers", way_out="sizes begin at 1")
        self.size, self.workers, self.learning_rate = size, workers, learning_rate
        self.classes = _classes(Path(folder) / "train")
        self.train = _files(Path(folder) / "train", self.classes)
        self.validation = _files(Path(folder) / "val", self.classes)
        self.batch_size = min(batch_size, len(self.train))

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Training images cut and mirrored at random, shuffled by `seed`; the incomplete last batch is dropped."""
        images, order = Images(self.train, self.size, seed), torch.Generator().manual_seed(seed)
        return DataLoader(
            images, self.batch_size, shuffle=True, drop_last=True, generator=order, num_workers=self.workers
        )

    def validation_loader(self) -> DataLoader[Any]:
        """The centre of every validation image."""
        return DataLoader(Images(self.validation, self.size), self.batch_size, num_workers=self.workers)

    def example_inputs(self) -> tuple[Tensor]:
        """The first validation image."""
        return (Images(self.validation[:1], self.size)[0][0][None],)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Cross entropy."""
        check_classes(outputs, self.classes)
        return super().loss(outputs, batch)

    def score(self, outputs: Any, batch: Any) -> tuple[float, int]:
        """(images whose likeliest class is right, images)."""
        check_classes(outputs, self.classes)
        return super().score(outputs, batch)


task = ImageFolder


class Images(Dataset[tuple[Tensor, int]]):
    """Decoded images with their labels: the centre of each, or with a seed a random part that seed and index fix."""

    def __init__(self, files: Sequence[tuple[str, int]], size: int, seed: int | None = None) -> None:
        self.files, self.size, self.seed = files, size, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        image = decode(path)
        if self.seed is None:
            return normalised(centre(image, self.size)), label
        return normalised(random_part(image, self.size, random.Random(self.seed << 32 | index))), label


def decode(path: str) -> Image.Image:
    """The RGB image in a file.

    Raises:
        FileError: it cannot be decoded to the end.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever their format taught them
        raise FileError(f"{path} cannot be decoded as an image: {error}", way_out="replace or remove it") from None


def random_part(image: Image.Image, size: int, dice: random.Random) -> Image.Image:
    """A part of 8 to 100 % of the area, 3:4 to 4:3, at size × size, mirrored half of the time."""
    width, height = image.size
    for _ in range(10):
        area = width * height * dice.uniform(0.08, 1)
        ratio = math.exp(dice.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # a strip so long that no such part fits into it
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    x, y = dice.randint(0, width - w), dice.randint(0, height - h)
    part = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if dice.random() < 0.5 else part


def centre(image: Image.Image, size: int) -> Image.Image:
    """The shorter side scaled to 256/224 of `size`, then the centre.

    >>> centre(Image.new("RGB", (640, 480)), 224).size
    (224, 224)
    """
    scale = round(size * 256 / 224) / min(image.size)
    width, height = (max(round(extent * scale), size) for extent in image.size)
    x, y = (width - size) // 2, (height - size) // 2
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    return whole.crop((x, y, x + size, y + size))


def normalised(image: Image.Image) -> Tensor:
    """Pixels with ImageNet's mean and deviation taken out.  # (H, W, 3) uint8 → (3, H, W) float32"""
    mean, deviation = (np.asarray(values, np.float32) for values in (MEAN, DEVIATION))
    pixels = (np.asarray(image, np.float32) / 255 - mean) / deviation
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted."""
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}", way_out=LAYOUT)
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise FileError(f"{folder} holds no folder, so no class", way_out=LAYOUT)
    return found


def _files(folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Every image below `folder` with the number of its class, in a fixed order."""
    found = []
    for name in _classes(folder):
        if name not in classes:
            raise FileError(f"class '{name}' of {folder} is not in train", way_out=LAYOUT)
        images = sorted(
            os.path.join(where, file)
            for where, _, inside in os.walk(folder / name)
            for file in inside
            if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        )
        if not images:
            raise FileError(
                f"class folder {folder / name} holds no image", way_out=f"images end in {', '.join(SUFFIXES)}"
            )
        found += [(image, classes.index(name)) for image in images]
    return found
