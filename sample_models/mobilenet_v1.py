"""MobileNet-v1 (Howard et al. 2017, arXiv 1704.04861) at any width and any input size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

Blocks = Sequence[tuple[int, int]]  # (output channels at width 1.0, stride) of depthwise-separable blocks

# the thirteen of the paper
BLOCKS: Blocks = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU}


class MobileNetV1(nn.Module):
    """3×3 stride-2 RGB stem, depthwise-separable blocks, global average, one linear layer.

    Shapes: (N, 3, H, W) → (N, classes). The strides divide H and W by 32 as in the paper, which at 32×32 leaves the
    last two blocks a single position: cheap, and still the network that phones run. With `small_images` the last two
    strides are 1, so that H and W are divided by 8: slower, and better where the images hold detail.
    """

    def __init__(
        self,
        width: float = 1.0,
        classes: int = 10,
        activation: str = "relu6",
        small_images: bool = False,
        blocks: Blocks = BLOCKS,
    ) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        channels = scaled(32, width)
        layers = [_conv(3, channels, 3, 2, 1, act)]
        for base, stride in blocks:
            out = scaled(base, width)
            if small_images and base >= 512:
                stride = 1
            layers += [_conv(channels, channels, 3, stride, channels, act), _conv(channels, out, 1, 1, 1, act)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits (N, classes)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return logits


def build(
    width: float = 1.0,
    classes: int = 10,
    activation: str = "relu6",
    small_images: bool = False,
    blocks: Blocks = BLOCKS,
) -> MobileNetV1:
    """A MobileNet-v1 with fresh weights; its random state is torch's.

    Args:
        width: multiplies every channel count, rounded to a multiple of 8.
        classes: outputs of the classifier.
        activation: relu6 (as in the paper) or relu.
        small_images: keep the strides of the last two downsampling blocks at 1.
        blocks: (output channels at width 1.0, stride) of each block, for a net of another depth.

    >>> sum(p.numel() for p in build(classes=1000).parameters())
    4231976
    """
    return MobileNetV1(width, classes, activation, small_images, blocks)


def build_half() -> MobileNetV1:
    """Width 0.5 for ten classes: 0.83 M parameters, what the demo trains on real digits in a minute or two."""
    return build(width=0.5)


def scaled(channels: int, width: float) -> int:
    """`channels` × `width` to the nearest multiple of 8, at least 8.

    >>> scaled(32, 0.5), scaled(64, 0.75), scaled(32, 0.1)
    (16, 48, 8)
    """
    return max(8, int(channels * width + 4) // 8 * 8)


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        act(),
    )


def build_quarter() -> MobileNetV1:
    """Width 0.25, some 0.2 million weights: what microcontrollers hold."""
    return build(0.25)
