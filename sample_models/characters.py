"""A harder image task, generated: coloured characters on coloured ground, turned, noisy, among distractors.

Thirty-six classes, a–z and 0–9. Each image, 32×32 unless told otherwise, holds one character drawn in Pillow's bundled
font (so no system font is needed) at a random size, place, angle and colour; straight strokes and corners of other
characters cross it, and Gaussian noise covers it. Some pairs (o/0, l/1, 5/s) are close on purpose: a dense network
stays below 100 %, so that what pruning costs can be seen. The same arguments and Pillow version give the same pixels.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.tasks import Task

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
SIZE = 32  # pixels along a side
FONT_SIZES = tuple(range(18, 29, 2))
DARK, LIGHT = (40, 40, 40), (215, 215, 215)


class Characters(Task):
    """Batches of (images (N, 3, 32, 32) float32 of about unit variance, labels (N,) int64 into `ALPHABET`).

    Args:
        samples: training images; `validation` further ones are held out.
        noise: deviation of the Gaussian noise, as a share of the full brightness.
        rotation: the largest angle in degrees, either way.
        distractors: strokes and foreign corners an image.
        seed: of every image; the training order has its own seed.
        size: pixels along a side, at most 32. colours: False for light characters on dark ground, all alike.
    """

    epochs = 20
    learning_rate = 0.05

    def __init__(
        self,
        samples: int = 12000,
        validation: int = 2000,
        noise: float = 0.15,
        rotation: float = 25.0,
        distractors: int = 3,
        seed: int = 0,
        batch_size: int = 64,
        size: int = SIZE,
        colours: bool = True,
    ) -> None:
        images, labels = render(samples + validation, noise, rotation, distractors, seed, size, colours)
        self.train = TensorDataset(images[:samples], labels[:samples])
        self.validation = TensorDataset(images[samples:], labels[samples:])
        self.batch_size = batch_size

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Training images shuffled by `seed`; the incomplete last batch is dropped."""
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=generator)

    def validation_loader(self) -> DataLoader[Any]:
        """Images that training never sees."""
        return DataLoader(self.validation, 250)


def task(**settings: Any) -> Characters:
    """The task with its default difficulty, or with other arguments of `Characters`."""
    return Characters(**settings)


def render(
    count: int,
    noise: float,
    rotation: float,
    distractors: int,
    seed: int,
    size: int = SIZE,
    colours: bool = True,
) -> tuple[Tensor, Tensor]:
    """`count` images (count, 3, size, size), normalised, and labels (count,), every class equally often.

    >>> images, labels = render(72, noise=0.1, rotation=20.0, distractors=2, seed=0)
    >>> tuple(images.shape), labels.bincount().tolist() == [2] * 36
    ((72, 3, 32, 32), True)
    """
    dice = random.Random(seed)
    fonts = [ImageFont.load_default(size) for size in FONT_SIZES]
    order = [i % len(ALPHABET) for i in range(count)]
    dice.shuffle(order)
    drawn = (_draw(ALPHABET[label], fonts, rotation, distractors, dice, colours) for label in order)
    pixels = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) for image in drawn])
    grain = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
    images = (pixels.astype(np.float32) / 255 - 0.5 + noise * grain) / 0.33
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.tensor(order, dtype=torch.int64)


def _draw(
    character: str, fonts: list[Any], rotation: float, distractors: int, dice: random.Random, colours: bool
) -> Image.Image:
    """One image of SIZE × SIZE."""
    ground, ink = _colours(dice) if colours else (DARK, LIGHT)
    image = Image.new("RGB", (SIZE, SIZE), ground)
    for _ in range(distractors):
        if dice.random() < 0.5:
            ends = [dice.randrange(SIZE) for _ in range(4)]
            ImageDraw.Draw(image).line(ends, fill=_between(ground, ink, dice.uniform(0.3, 0.8)), width=1)
        else:
            foreign = _glyph(dice.choice(ALPHABET), dice.choice(fonts), dice.uniform(-180, 180))
            corner = (dice.choice((-12, 24)) + dice.randrange(-3, 4), dice.randrange(-12, 24))
            image.paste(_between(ground, ink, dice.uniform(0.5, 1.0)), corner, foreign)
    glyph = _glyph(character, dice.choice(fonts), dice.uniform(-rotation, rotation))
    x, y = ((SIZE - extent) // 2 + dice.randrange(-3, 4) for extent in glyph.size)
    image.paste(ink, (x, y), glyph)
    return image


def _glyph(character: str, font: Any, angle: float) -> Image.Image:
    """The character as a turned grey mask, cropped to its ink."""
    sheet = Image.new("L", (48, 48))
    ImageDraw.Draw(sheet).text((24, 24), character, fill=255, font=font, anchor="mm")
    turned = sheet.rotate(angle, Image.Resampling.BILINEAR)
    return turned.crop(turned.getbbox())


def _colours(dice: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ground and ink whose mean brightness differs by at least 60 of 255."""
    while True:
        ground, ink = (tuple(dice.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(sum(ground) - sum(ink)) >= 180:
            return ground, ink


def _between(ground: tuple[int, ...], ink: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(g + share * (i - g)) for g, i in zip(ground, ink, strict=True))
