"""Data of the small tasks, made here or shipped with scikit-learn: training inputs, targets, test inputs, targets."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bench.suite.characters import draw

Data = tuple[Tensor, Tensor, Tensor, Tensor]
TEST = 2000


def _split(x: Tensor, y: Tensor, test: int = TEST) -> Data:
    return x[test:], y[test:], x[:test], y[:test]


@lru_cache
def characters(count: int, noise: float, classes: int = 36) -> Data:
    """Grey images (N, 1, 20, 20)."""
    return _split(*draw(count + TEST, noise, classes=classes))


@lru_cache
def coloured(count: int, noise: float, classes: int = 36) -> Data:
    """The same in a random ink on a random ground, (N, 3, 20, 20)."""
    images, labels = draw(count + TEST, 0.0, seed=1, classes=classes)
    generator = torch.Generator().manual_seed(1)
    ground = 0.5 * torch.rand(len(labels), 3, 1, 1, generator=generator)
    ink = 0.5 + 0.5 * torch.rand(ground.shape, generator=generator)
    images = (images - images.min()) / (images.max() - images.min())
    mixed = ground + (ink - ground) * images
    mixed = mixed + noise * torch.randn(mixed.shape, generator=generator)
    return _split((mixed - mixed.mean()) / mixed.std(), labels)


@lru_cache
def outlines(count: int, noise: float) -> Data:
    """Which pixels belong to the character: images (N, 1, 20, 20), targets (N, 20, 20) of 0 and 1."""
    clean, _ = draw(count + TEST // 4, 0.0, seed=2)
    generator = torch.Generator().manual_seed(2)
    ink = (clean[:, 0] > 0.3 * clean.max()).float()
    images = clean / clean.std() + noise * torch.randn(clean.shape, generator=generator)
    return _split(images / images.std(), ink, TEST // 4)


@lru_cache
def digits(flat: bool = False) -> Data:
    """Real handwriting: 1,797 digits of 8×8."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    images = (images[order] - images.mean()) / images.std()
    labels = torch.tensor(bunch.target)[order]
    return _split(images.flatten(1) if flat else images.unsqueeze(1), labels, 597)


@lru_cache
def keywords(count: int, noise: float, classes: int = 16) -> Data:
    """Sequences (N, 4, 32) of two tones one after the other, at random times, phases and pace; a pair is a class."""
    generator = torch.Generator().manual_seed(4)
    total, tones = count + TEST, math.isqrt(classes)
    labels = torch.randint(classes, (total,), generator=generator)
    time = torch.arange(32) / 32
    middle = 0.35 + 0.3 * torch.rand(total, 1, generator=generator)
    pace = 1 + 0.1 * torch.randn(total, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(total, 4, 1, generator=generator)
    tone = torch.where(time < middle, (labels // tones)[:, None], (labels % tones)[:, None])
    turns = (2 + 1.8 * tone) * pace * time
    waves = torch.sin(2 * math.pi * turns[:, None, :] + phase)
    return _split(waves + noise * torch.randn(waves.shape, generator=generator), labels)


@lru_cache
def pointers(count: int, topics: int = 6, length: int = 8) -> Data:
    """Token sequences (N, 1 + 2·length): the first token says of which half the prevailing topic is asked."""
    generator = torch.Generator().manual_seed(5)
    total = count + TEST
    side = torch.randint(2, (total,), generator=generator)
    asked = torch.randint(topics, (total, 2), generator=generator)
    halves = torch.randint(topics, (total, 2, length), generator=generator)
    about = torch.rand(halves.shape, generator=generator) < 0.4
    halves = torch.where(about, asked[:, :, None], halves)
    words = 2 + halves + topics * torch.randint(8, halves.shape, generator=generator)
    x = torch.cat([side[:, None], words.flatten(1)], 1)
    return _split(x, asked[torch.arange(total), side])


@lru_cache
def curves(count: int, inputs: int = 16, noise: float = 0.1) -> Data:
    """A smooth function of `inputs` numbers with products and waves, (N, inputs) → (N, 1), of unit variance."""
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(count + TEST, inputs, generator=generator) * 2 - 1
    y = torch.sin(math.pi * x[:, 0] * x[:, 1]) + 2 * x[:, 2] ** 2 + x[:, 3] - x[:, 4] * x[:, 5]
    y = y + torch.cos(3 * x[:, 6] + x[:, 7]) + torch.where(x[:, 8] > 0, x[:, 9], x[:, 10])
    y = (y - y.mean()) / y.std() + noise * torch.randn(len(y), generator=generator)
    return _split(x, y.unsqueeze(1))
