"""Noisy rotated characters, 20×20 grey, drawn in the font that matplotlib ships: nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
SIZE = 20  # pixels along a side
ANGLES = range(-30, 31, 3)  # degrees
FONT_SIZES = (13, 15, 17)


@lru_cache
def glyphs(alphabet: str = ALPHABET, sizes: tuple[int, ...] = FONT_SIZES) -> Tensor:
    """Every character at every size and angle, (36, angles·sizes, 28, 28), 0 to 1, centred."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    sheets = []
    for character in alphabet:
        for size in sizes:
            font = ImageFont.truetype(str(file), size)
            sheet = Image.new("L", (28, 28))
            ImageDraw.Draw(sheet).text((14, 14), character, fill=255, font=font, anchor="mm")
            sheets += [np.asarray(sheet.rotate(angle, Image.Resampling.BILINEAR)) for angle in ANGLES]
    pixels = np.stack(sheets).astype(np.float32) / 255
    return torch.from_numpy(pixels).reshape(len(alphabet), -1, 28, 28)


@lru_cache
def draw(
    count: int,
    noise: float,
    seed: int = 0,
    classes: int = 36,
    *,
    alphabet: str = ALPHABET,
    sizes: tuple[int, ...] = FONT_SIZES,
    shift: int = 3,
) -> tuple[Tensor, Tensor]:
    """`count` images (count, 1, 20, 20) of unit variance or so and labels (count,), every class equally often.

    Each is turned by up to 30° and moved by up to `shift` pixels either way.

    >>> images, labels = draw(72, 1.0)
    >>> tuple(images.shape), labels.bincount().unique().tolist()
    ((72, 1, 20, 20), [2])
    """
    generator, sheets = torch.Generator().manual_seed(seed), glyphs(alphabet, sizes)
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % classes
    which = torch.randint(sheets.shape[1], (count,), generator=generator)
    left, top = torch.randint(4 - shift, 5 + shift, (2, count), generator=generator)
    chosen = sheets[labels, which]
    rows = top[:, None] + torch.arange(SIZE)
    columns = left[:, None] + torch.arange(SIZE)
    images = chosen[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    images = images + noise * torch.randn(images.shape, generator=generator)
    return ((images - images.mean()) / images.std()).unsqueeze(1), labels
