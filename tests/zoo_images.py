"""Image networks in miniature: the building blocks that phones run, one trap a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type | None = nn.ReLU6):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, act()) if act else nn.Sequential(*layers)


def head(channels: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their averages: a product of a map with a 1×1 map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Inverted(nn.Module):
    """MobileNet-v2/v3 and EfficientNet-lite block: widen, depthwise, gate, narrow; residual where shapes agree."""

    def __init__(self, inputs, outputs, stride, expand=4, kernel=3, act=nn.ReLU6, gated=False) -> None:
        super().__init__()
        hidden = inputs * expand
        layers = [conv(inputs, hidden, 1, act=act), conv(hidden, hidden, kernel, stride, hidden, act=act)]
        layers += [SqueezeExcite(hidden)] if gated else []
        self.body = nn.Sequential(*layers, conv(hidden, outputs, 1, act=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(
        conv(3, 16, 3, 2), Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), conv(24, 96, 1), head(96)
    )


def mobilenet_v3() -> nn.Module:
    swish = nn.Hardswish
    blocks = [Inverted(16, 16, 1, gated=True, act=nn.ReLU), Inverted(16, 24, 2, kernel=5, act=swish, gated=True)]
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 48), swish(), nn.Linear(48, 10))
    return nn.Sequential(conv(3, 16, 3, 2, act=swish), *blocks, conv(24, 64, 1, act=swish), classifier)


def efficientnet_lite() -> nn.Module:
    blocks = [Inverted(16, 16, 1, 1), Inverted(16, 24, 2, 6), Inverted(24, 40, 2, 6, 5), Inverted(40, 40, 1, 6, 5)]
    return nn.Sequential(conv(3, 16, 3, 2), *blocks, nn.Dropout(0.2), head(40))


class Bottleneck(nn.Module):
    """ResNet-50 block."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        relu = nn.ReLU
        self.body = nn.Sequential(
            conv(inputs, width, 1, act=relu),
            conv(width, width, 3, stride, act=relu),
            conv(width, width * 4, 1, act=None),
        )
        same = inputs == width * 4 and stride == 1
        self.shortcut = nn.Identity() if same else conv(inputs, width * 4, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    stem = [conv(3, 16, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    blocks = [Bottleneck(16, 8), Bottleneck(32, 8), Bottleneck(32, 16, 2), Bottleneck(64, 16), Bottleneck(64, 24, 2)]
    return nn.Sequential(*stem, *blocks, head(96))


class Classic(nn.Module):
    """Every tutorial's first network: the last map goes into a linear layer as it is, by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 16, act=nn.ReLU), nn.MaxPool2d(4), conv(16, 32, act=nn.ReLU), nn.MaxPool2d(2)
        )
        self.classifier = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class Fire(nn.Module):
    """SqueezeNet: two branches of different kernel, concatenated; biases and no batch norm."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.one, self.three = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet() -> nn.Module:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    body = [nn.Conv2d(3, 24, 3, 2), nn.ReLU(), pool, Fire(24, 12, 24), Fire(48, 12, 24), pool, Fire(48, 16, 32)]
    return nn.Sequential(*body, nn.Conv2d(64, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Shuffle(nn.Module):
    """ShuffleNet-v2 unit: split the channels, work on one half, interleave the halves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, relu = channels // 2, nn.ReLU
        self.body = nn.Sequential(
            conv(half, half, 1, act=relu), conv(half, half, 3, 1, half, act=None), conv(half, half, 1, act=relu)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        joined = torch.cat([kept, self.body(worked)], 1)
        n, c, h, w = joined.shape
        return joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        conv(3, 32, 3, 2, act=nn.ReLU), Shuffle(32), Shuffle(32), conv(32, 64, 1, act=nn.ReLU), head(64)
    )


class UNet(nn.Module):
    """Encoder, decoder by transposed convolution, skip connections; the output is a map."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 12), conv(12, 24), conv(24, 48)
        self.up2, self.up1 = nn.ConvTranspose2d(48, 24, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.join2, self.join1, self.out = conv(48, 24), conv(24, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        return self.out(self.join1(torch.cat([self.up1(b), a], 1)))


class Upsampler(nn.Module):
    """A decoder: nearest and bilinear resizing, transposed convolution followed by batch norm, tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(24, 16 * 4 * 4)
        self.conv1, self.conv2 = conv(16, 16), conv(16, 12)
        self.grow = nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False)
        self.norm, self.out = nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv1(F.interpolate(self.start(z).view(-1, 16, 4, 4), scale_factor=2.0, mode="nearest"))
        x = self.conv2(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        return torch.tanh(self.out(F.relu(self.norm(self.grow(x)))))


class ConvNeXtBlock(nn.Module):
    """7×7 depthwise, layer norm on channels last, GELU, a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stem = nn.Conv2d(3, 24, 4, 4)
    return nn.Sequential(stem, ConvNeXtBlock(24), nn.Conv2d(24, 48, 2, 2), ConvNeXtBlock(48), head(48))


class Dense(nn.Module):
    """DenseNet layer: batch norm *before* the convolution, which cannot be folded into it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 12, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def densenet() -> nn.Module:
    body = [conv(3, 24, 3, 2, act=nn.ReLU), Dense(24), Dense(36), nn.AvgPool2d(2), nn.Conv2d(48, 24, 1), Dense(24)]
    return nn.Sequential(*body, nn.BatchNorm2d(36), nn.ReLU(), head(36))


class Segmenter(nn.Module):
    """Dilated and grouped convolutions, average pooling branch, resizing to the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2, act=nn.ReLU)
        self.branches = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.grouped, self.out = conv(24, 24, 3, groups=4, act=nn.LeakyReLU), nn.Conv2d(40, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        wide = self.grouped(torch.cat([branch(y) for branch in self.branches], 1))
        around = y + F.adaptive_avg_pool2d(y, 1)
        return F.interpolate(self.out(torch.cat([wide, around], 1)), size=x.shape[2:], mode="bilinear")


class Detector(nn.Module):
    """Two heads, returned as a dict; group norm and SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.GroupNorm(4, 24), nn.SiLU(), conv(24, 32, 3, 2))
        self.boxes, self.scores = nn.Conv2d(32, 8, 1), nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"boxes": self.boxes(y).flatten(2).transpose(1, 2), "scores": self.scores(y).flatten(2).sigmoid()}


def super_resolution() -> nn.Module:
    """Pixel shuffle, PReLU, reflected borders."""
    pad = nn.ReflectionPad2d(1)
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, padding=2), nn.PReLU(24), pad, nn.Conv2d(24, 12, 3), nn.ELU(), nn.PixelShuffle(2)
    )
