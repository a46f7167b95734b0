"""Data of the small tasks, made here or shipped with scikit-learn: training inputs, targets, test inputs, targets."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bench.suite.characters import ALPHABET, draw

Data = tuple[Tensor, Tensor, Tensor, Tensor]
TEST = 2000


def _split(x: Tensor, y: Tensor, test: int = TEST) -> Data:
    return x[test:], y[test:], x[:test], y[:test]


@lru_cache
def characters(count: int, noise: float, classes: int = 36) -> Data:
    """Grey images (N, 1, 20, 20)."""
    return _split(*draw(count + TEST, noise, classes=classes))


@lru_cache
def turned(count: int, noise: float) -> Data:
    """Capitals and figures of one size, turned in the middle of a grey image (N, 1, 20, 20)."""
    capitals = {"alphabet": ALPHABET.upper(), "sizes": (15,), "shift": 0}
    return _split(*draw(count + 2 * TEST, noise, **capitals), 2 * TEST)


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


@lru_cache
def gratings(count: int, noise: float, flat: bool = False) -> Data:
    """Waves across an image (N, 1, 16, 16), (N, 256) if `flat`: of five directions and four widths, of any phase."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(20, (count + TEST,), generator=generator)
    turn = math.pi * (labels % 5 + 0.5 * torch.rand(len(labels), generator=generator)) / 5
    pace = (1.5 + labels // 5) * (1 + 0.05 * torch.randn(len(labels), generator=generator)) / 16
    phase = 2 * math.pi * torch.rand(len(labels), 1, 1, generator=generator)
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    along = across * torch.cos(turn)[:, None, None] + down * torch.sin(turn)[:, None, None]
    images = torch.sin(2 * math.pi * pace[:, None, None] * along + phase)
    images = images + noise * torch.randn(images.shape, generator=generator)
    images = images / images.std()
    return _split(images.flatten(1) if flat else images.unsqueeze(1), labels)


@lru_cache
def shapes(count: int, noise: float, flat: bool = False) -> Data:
    """One of eight figures, turned, moved and of any size, two ways round on a slope: (N, 1, 16, 16), or (N, 256)."""
    generator = torch.Generator().manual_seed(8)
    labels = torch.randint(8, (count + TEST,), generator=generator)

    def anything(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(labels), 1, 1, generator=generator)

    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    turn, size = anything(0, 2 * math.pi), anything(4, 6.5)
    y, x = (down - anything(6, 9)) / size, (across - anything(6, 9)) / size
    u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    far, wide, thin = (u * u + v * v).sqrt(), u.abs().maximum(v.abs()), u.abs().minimum(v.abs())
    figures = torch.stack(
        [
            far < 0.9, (far < 1) & (far > 0.5), wide < 0.8, (wide < 0.9) & (wide > 0.45), (thin < 0.3) & (wide < 1),
            (v > -0.6) & (v < 0.9 - 1.8 * u.abs()), (far < 1) & (u > 0),
            (u.abs() < 0.9) & ((v.abs() - 0.55).abs() < 0.25),
        ]
    )  # fmt: skip
    ink = figures[labels, torch.arange(len(labels))].float() * torch.where(anything(-1, 1) > 0, 1.0, -1.0)
    images = ink + (anything(-1, 1) * down + anything(-1, 1) * across) / 16
    images = images + noise * torch.randn(images.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    return _split(images.flatten(1) if flat else images.unsqueeze(1), labels)


@lru_cache
def beats(count: int, noise: float) -> Data:
    """Sequences (N, 3, 32): two tones of different pace and their sum, to how far the paces are apart (N, 1)."""
    generator = torch.Generator().manual_seed(9)
    paces = 1.5 + 5 * torch.rand(count + TEST, 2, 1, generator=generator)
    phases = 2 * math.pi * torch.rand(paces.shape, generator=generator)
    tones = torch.sin(2 * math.pi * paces * torch.arange(32) / 32 + phases)
    heard = torch.cat([tones, tones.sum(1, keepdim=True)], 1)
    heard = heard + noise * torch.randn(heard.shape, generator=generator)
    apart = (paces[:, 0] - paces[:, 1]).abs()
    return _split(heard, (apart - apart.mean()) / apart.std())


@lru_cache
def noisy(count: int, noise: float) -> Data:
    """Characters under noise, (N, 1, 20, 20), and the same without."""
    clean, _ = draw(count + TEST // 4, 0.0, seed=10)
    clean = (clean - clean.mean()) / clean.std()
    generator = torch.Generator().manual_seed(10)
    return _split(clean + noise * torch.randn(clean.shape, generator=generator), clean, TEST // 4)


@lru_cache
def copies() -> Data:
    """Real handwriting as its own target, (N, 64)."""
    x, _, test, _ = digits(flat=True)
    return x, x, test, test
