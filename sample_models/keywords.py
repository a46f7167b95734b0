"""Keyword spotting on made sounds: eight words of two syllables, other sounds, and silence; a depthwise-separable net.

A syllable is a glide of two formants over a voice's pitch; a word is two syllables, the same for every speaker but for
pitch, pace, loudness and when it begins. "Other" are syllables in pairs that are no word; "silence" is noise alone.
Each sound is one second at 8 kHz, given to the network as the logarithm of its energy in 49 frames × 10 bands, the
input of small keyword nets (Zhang, Suda, Lai, Chandra 2017, "Hello Edge", arXiv 1711.07128), whose DS-CNN it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.tasks import Task

RATE = 8000  # samples a second, and a sound's length
FRAMES, BANDS = 49, 10
GLIDES = ((300, 800, 2200, 1200), (700, 300, 1100, 2300), (500, 500, 900, 1900), (350, 600, 2500, 2500))  # Hz: from, to
WORDS = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (3, 1), (2, 3), (3, 2))  # pairs of GLIDES
OTHER, SILENCE = len(WORDS), len(WORDS) + 1
CLASSES = len(WORDS) + 2
NO_WORDS = tuple((a, b) for a in range(4) for b in range(4) if (a, b) not in WORDS)


class Keywords(Task):
    """Ten classes; batches of (spectra (N, 1, 49, 10) float32 of unit variance, labels (N,) int64)."""

    epochs = 6
    learning_rate = 0.1

    def __init__(self, samples: int = 5000, validation: int = 1000, noise: float = 0.9, batch_size: int = 64) -> None:
        spectra, labels = sounds(samples + validation, noise)
        self.train = TensorDataset(spectra[:samples], labels[:samples])
        self.validation = TensorDataset(spectra[samples:], labels[samples:])
        self.batch_size = batch_size

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Shuffled by `seed`; the incomplete last batch is dropped."""
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=generator)

    def validation_loader(self) -> DataLoader[Any]:
        """Sounds that training never hears."""
        return DataLoader(self.validation, 250)


def task() -> Keywords:
    """The sounds of `make demo-mcu`."""
    return Keywords()


def sounds(count: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Spectra (count, 1, 49, 10) of zero mean and unit variance, and labels (count,), by `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    pairs = torch.tensor([*WORDS, (0, 0), (0, 0)])[labels]
    others = torch.tensor(NO_WORDS)[torch.randint(len(NO_WORDS), (count,), generator=generator)]
    pairs = torch.where((labels == OTHER)[:, None], others, pairs)
    spectra = torch.cat(
        [
            _spectra(_waves(pairs[i : i + 500], (labels[i : i + 500] != SILENCE).float(), noise, generator))
            for i in range(0, count, 500)
        ]
    )
    return (spectra - spectra.mean()) / spectra.std(), labels


def _waves(pairs: Tensor, loud: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """(n, 2) syllables → (n, 8000) samples."""

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(pairs), 1, generator=generator)

    time = torch.arange(RATE) / RATE
    begin, length, pitch = drawn(0.05, 0.3), drawn(0.2, 0.3), drawn(90, 220)
    voice = drawn(0.9, 1.1)  # the length of a throat moves all formants
    wave = torch.zeros(len(pairs), RATE)
    for place in (0, 1):
        at = (time - begin - place * length) / length  # 0 to 1 within the syllable
        shape = torch.where((at > 0) & (at < 1), torch.sin(math.pi * at.clamp(0, 1)), 0.0)
        glides = torch.tensor(GLIDES, dtype=torch.float32)[pairs[:, place]] * voice
        for first in (0, 2):
            start, end = glides[:, first, None], glides[:, first + 1, None]
            turns = (start + (end - start) * at.clamp(0, 1) / 2) * (at.clamp(0, 1) * length)
            wave += shape * torch.sin(2 * math.pi * turns) * (1 + torch.sin(2 * math.pi * pitch * time)) / 2
    wave *= loud[:, None] * drawn(0.5, 1.5)
    return wave + noise * drawn(0.5, 1.0) * torch.randn(wave.shape, generator=generator)


def _spectra(waves: Tensor) -> Tensor:
    """(n, 8000) → (n, 1, 49, 10): log energy in bands of equal width up to 3 kHz, of frames of 40 ms every 20 ms."""
    window, hop = RATE // 25, RATE // 50
    energy = torch.stft(waves, window, hop, window=torch.hann_window(window), center=False, return_complex=True).abs()
    bands = energy.square()[:, : BANDS * 12].unflatten(1, (BANDS, 12)).mean(2)  # 25 Hz a bin
    return bands.add(1e-3).log().transpose(1, 2)[:, None, :FRAMES]


class DSCNN(nn.Module):
    """A 10×4 stem of stride 2, depthwise-separable 3×3 blocks, global average, one linear layer.

    Shapes: (N, 1, 49, 10) → (N, classes).
    """

    def __init__(self, width: int = 64, blocks: int = 4, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = _unit(1, width, (10, 4), stride=2, padding=(5, 2))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(_unit(width, width, (3, 3), groups=width, padding=(1, 1)), _unit(width, width, (1, 1)))
                for _ in range(blocks)
            )
        )
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.classifier = nn.Linear(width, classes)

    def forward(self, spectra: Tensor) -> Tensor:
        """Spectra (N, 1, 49, 10) → logits (N, classes)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.blocks(self.stem(spectra)))))
        return logits


def build(width: int = 64, blocks: int = 4, classes: int = CLASSES) -> DSCNN:
    """The small DS-CNN of the paper: some 23 thousand weights."""
    return DSCNN(width, blocks, classes)


def _unit(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
