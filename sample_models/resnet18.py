"""ResNet-18 (He et al. 2015, arXiv 1512.03385) at any width and any input size."""

from __future__ import annotations

from torch import Tensor, nn

from sample_models.mobilenet_v1 import scaled


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut. Shapes: (N, in, H, W) → (N, out, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """y = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""
        inner = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return out


class ResNet18(nn.Module):
    """Stem 7×7 stride 2 with max pooling, or 3×3 stride 1 for small images; four stages of two blocks.

    Shapes: (N, 3, H, W) → (N, classes).
    """

    def __init__(self, width: float = 1.0, classes: int = 10, small_images: bool = True) -> None:
        super().__init__()
        channels = scaled(64, width)
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.pool: nn.Module = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        for base, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
            out = scaled(base, width)
            blocks += [Block(channels, out, first), Block(out, out, 1)]
            channels = out
        self.stages = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits (N, classes)."""
        x = self.stages(self.pool(self.stem(images)))
        logits: Tensor = self.classifier(self.flatten(self.average(x)))
        return logits


def build(width: float = 1.0, classes: int = 10, small_images: bool = True) -> ResNet18:
    """A ResNet-18 with fresh weights; its random state is torch's.

    Args:
        width: multiplies every channel count, rounded to a multiple of 8.
        classes: outputs of the classifier.
        small_images: a 3×3 stride-1 stem without pooling (32×32 images); False is the ImageNet stem of the paper.

    >>> sum(p.numel() for p in build(classes=1000, small_images=False).parameters())
    11689512
    """
    return ResNet18(width, classes, small_images)
