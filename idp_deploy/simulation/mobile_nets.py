"""Published mobile architectures as work. Channel tables are those of the papers and their reference code.

MobileNet v1 arXiv:1704.04861, v2 arXiv:1801.04381, v3 arXiv:1905.02244, MnasNet arXiv:1807.11626,
EfficientNet arXiv:1905.11946, ShuffleNet v2 arXiv:1807.11164, GhostNet arXiv:1911.11907,
SSDLite as in MobileNet v2, EfficientDet arXiv:1911.09070 (the lite variants of the TensorFlow model maker),
MobileOne arXiv:2206.04040, RegNet arXiv:2003.13678.
"""

from __future__ import annotations

from itertools import pairwise

from idp_deploy.simulation.layers import Net, divisible

MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
# expansion, channels, repeats, stride[, kernel]
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MNASNET_B1 = (
    (3, 24, 3, 2, 3),
    (3, 40, 3, 2, 5),
    (6, 80, 3, 2, 5),
    (6, 96, 2, 1, 3),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
EFFICIENTNET = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
                (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
# kernel, expanded channels, channels, squeeze-excite, hard-swish, stride
MOBILENET_V3_LARGE = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)  # fmt: skip
MOBILENET_V3_SMALL = (
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2), (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)  # fmt: skip
GHOSTNET = (
    (3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1), (3, 240, 80, 0, 2),
    (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1),
    (5, 672, 160, 1, 2), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1),
)  # fmt: skip


def classifier(net: Net, classes: int = 1000) -> Net:
    """Mean over space, then one fully connected layer."""
    return net.mean().linear(classes)


def mobilenet_v1(width: float = 1.0, size: int = 224) -> Net:
    """13 depthwise-separable blocks."""
    net = Net("mobilenet_v1", size).conv(int(32 * width), 3, 2)
    for channels, stride in MOBILENET_V1:
        net.depthwise(3, stride).conv(int(channels * width))
    return classifier(net)


def inverted(
    net: Net,
    expansion: float,
    channels: int,
    stride: int,
    kernel: int = 3,
    *,
    act: str = "relu",
    squeeze: int = 0,
    gates: int = 2,
) -> Net:
    """Expand, depthwise, optional squeeze-excite, project; a sum where the shape is kept."""
    start = net.shape[2]

    def path(net: Net) -> None:
        if expansion != 1:
            net.conv(round(start * expansion), act=act)
        net.depthwise(kernel, stride, act=act)
        if squeeze:
            net.squeeze_excite(squeeze, gates=gates, act="sigmoid" if act == "swish" else "hard_sigmoid")
        net.conv(channels, act="linear")

    if stride == 1 and start == channels:
        return net.residual(path)
    path(net)
    return net


def mobilenet_v2_features(width: float, size: int) -> Net:
    """Everything before the classifier."""
    net = Net("mobilenet_v2", size).conv(divisible(32 * width), 3, 2)
    for expansion, channels, repeats, stride in MOBILENET_V2:
        for i in range(repeats):
            inverted(net, expansion, divisible(channels * width), stride if i == 0 else 1)
    return net


def mobilenet_v2(width: float = 1.0, size: int = 224) -> Net:
    """Inverted residuals; the last layer does not shrink below 1280."""
    return classifier(mobilenet_v2_features(width, size).conv(divisible(1280 * max(1.0, width))))


def mobilenet_v3(
    rows: tuple[tuple[int, ...], ...], hidden: int, width: float = 1.0, size: int = 224, *, minimal: bool = False
) -> Net:
    """Kernel sizes, squeeze-excite and hard-swish chosen layer by layer; `minimal` drops all three."""
    swish = "relu" if minimal else "hard_swish"
    net = Net("mobilenet_v3", size).conv(16, 3, 2, act=swish)
    for kernel, expanded, channels, squeeze, hard, stride in rows:
        start, out = net.shape[2], divisible(channels * width)
        wide = divisible(expanded * width)
        inverted(
            net,
            wide / start,
            out,
            stride,
            3 if minimal else kernel,
            act=swish if hard else "relu",
            squeeze=0 if minimal or not squeeze else divisible(wide / 4),
        )
    net.conv(divisible(rows[-1][1] * width), act=swish).mean().linear(hidden)
    return (net if minimal else net.activation("hard_swish")).linear(1000)


def mnasnet(width: float = 1.0, size: int = 224) -> Net:
    """MnasNet-B1, without squeeze-excite."""
    net = Net("mnasnet", size).conv(divisible(32 * width), 3, 2)
    net.depthwise().conv(divisible(16 * width), act="linear")
    for expansion, channels, repeats, stride, kernel in MNASNET_B1:
        for i in range(repeats):
            inverted(net, expansion, divisible(channels * width), stride if i == 0 else 1, kernel)
    return classifier(net.conv(1280))


def efficientnet_features(
    width: float, depth: float, size: int, *, lite: bool
) -> tuple[Net, list[tuple[int, int, int]]]:
    """Backbone and its last shape at every resolution; lite: ReLU6, no squeeze-excite, fixed stem and ends."""
    act = "relu" if lite else "swish"
    net = Net("efficientnet", size).conv(32 if lite else divisible(32 * width), 3, 2, act=act)
    levels: list[tuple[int, int, int]] = []
    for stage, (expansion, channels, repeats, stride, kernel) in enumerate(EFFICIENTNET):
        fixed = lite and stage in (0, len(EFFICIENTNET) - 1)
        for i in range(repeats if fixed else int(-(-repeats * depth // 1))):
            if i == 0 and stride == 2:
                levels.append(net.shape)
            squeeze = 0 if lite else max(1, net.shape[2] // 4)
            inverted(
                net, expansion, divisible(channels * width), stride if i == 0 else 1, kernel, act=act, squeeze=squeeze
            )
    return net, [*levels, net.shape]


def efficientnet(width: float = 1.0, depth: float = 1.0, size: int = 224, *, lite: bool = False) -> Net:
    """B0 with its defaults."""
    net, _ = efficientnet_features(width, depth, size, lite=lite)
    return classifier(net.conv(1280 if lite else divisible(1280 * width), act="relu" if lite else "swish"))


def shufflenet_v2(channels: tuple[int, ...] = (116, 232, 464), last: int = 1024, size: int = 224) -> Net:
    """Half of the channels pass through; 1×1, depthwise, 1×1 on the other half, then a shuffle."""
    net = Net("shufflenet_v2", size).conv(24, 3, 2).pool(3, 2)
    for out, repeats in zip(channels, (4, 8, 4), strict=True):
        half = out // 2

        def left(net: Net, half: int = half) -> None:
            net.depthwise(3, 2, act="linear").conv(half)

        def right(net: Net, half: int = half) -> None:
            net.conv(half).depthwise(3, 2, act="linear").conv(half)

        net.branches(left, right).move()
        for _ in range(repeats - 1):
            h, w, _ = net.shape
            net.move((h, w, half)).conv(half).depthwise(act="linear").conv(half).move((h, w, out)).move()
    return classifier(net.conv(last))


def ghost(net: Net, out: int, *, act: str = "relu") -> Net:
    """Half of the channels by 1×1, the other half by a cheap depthwise of the first."""
    net.conv(-(-out // 2), act=act)
    h, w, c = net.shape
    net.depthwise(3, act=act)
    net.shape = (h, w, 2 * c)
    return net.move((h, w, out))


def ghostnet(size: int = 224) -> Net:
    """GhostNet 1.0×."""
    net = Net("ghostnet", size).conv(16, 3, 2)
    for kernel, expanded, channels, squeeze, stride in GHOSTNET:
        start = net.shape[2]

        def path(
            net: Net,
            kernel: int = kernel,
            expanded: int = expanded,
            channels: int = channels,
            squeeze: int = squeeze,
            stride: int = stride,
        ) -> None:
            ghost(net, expanded)
            if stride == 2:
                net.depthwise(kernel, 2, act="linear")
            if squeeze:
                net.squeeze_excite(divisible(expanded / 4, 4))
            ghost(net, channels, act="linear")

        def shortcut(net: Net, kernel: int = kernel, channels: int = channels, stride: int = stride) -> None:
            net.depthwise(kernel, stride, act="linear").conv(channels, act="linear")

        net.residual(path, None if stride == 1 and start == channels else shortcut)
    return net.conv(960).mean().linear(1280).linear(1000)


def ssd_heads(
    net: Net,
    anchors: tuple[int, ...],
    classes: int = 91,
    *,
    lite: bool,
    features: list[tuple[int, int, int]],
    kernel: int = 1,
    extras: tuple[int, ...] = (512, 256, 256, 128),
) -> Net:
    """Box and class predictions on two backbone maps and four extra ones."""
    shapes = list(features)
    net.shape = shapes[-1]
    for channels in extras:
        net.conv(channels // 2)
        net = net.depthwise(3, 2).conv(channels) if lite else net.conv(channels, 3, 2)
        shapes.append(net.shape)
    for shape, count in zip(shapes, anchors, strict=True):
        for outputs in (4, classes):
            net.shape = shape
            if lite:
                net.depthwise().conv(count * outputs, act="linear")
            else:
                net.conv(count * outputs, kernel, act="linear")
    return net


def ssd_mobilenet_v1(size: int = 300) -> Net:
    """SSD with 1×1 predictors."""
    net = Net("ssd_mobilenet_v1", size).conv(32, 3, 2)
    features = []
    for index, (channels, stride) in enumerate(MOBILENET_V1):
        net.depthwise(3, stride).conv(channels)
        if index in (10, 12):
            features.append(net.shape)
    return ssd_heads(net, (3, 6, 6, 6, 6, 6), lite=False, features=features)


def ssd_mobilenet_v2(size: int = 300, *, lite: bool = False) -> Net:
    """Features from the expansion of block 13 (stride 16) and the last layer (stride 32); 3×3 predictors."""
    net = mobilenet_v2_features(1.0, size).conv(1280)
    middle = -(-size // 16)
    return ssd_heads(net, (3, 6, 6, 6, 6, 6), lite=lite, kernel=3, features=[(middle, middle, 576), net.shape])


def efficientdet_lite(
    size: int = 320,
    width: float = 1.0,
    depth: float = 1.0,
    channels: int = 64,
    cells: int = 3,
    repeats: int = 3,
    classes: int = 90,
) -> Net:
    """EfficientNet-lite, a weighted two-way pyramid over five levels, and shared box and class towers."""
    net, levels = efficientnet_features(width, depth, size, lite=True)
    p3, p4, p5 = levels[2], (levels[3][0], levels[3][1], divisible(112 * width)), levels[-1]
    pyramid: list[tuple[int, int, int]] = []
    for shape in (p3, p4, p5):
        net.shape = shape
        net.conv(channels, act="linear")
        pyramid.append(net.shape)
    for _ in range(2):
        net.pool(3, 2)
        pyramid.append(net.shape)
    for _ in range(cells):
        up = [*pairwise(pyramid)]
        for fine, _ in reversed(up):
            net.shape = fine
            net.move().pointwise(2).depthwise(act="linear").conv(channels)
        for fine, coarse in up:
            net.shape = fine
            net.pool(3, 2)
            net.shape = coarse
            net.pointwise(3).depthwise(act="linear").conv(channels)
    for shape in pyramid:
        for outputs in (9 * 4, 9 * classes):
            net.shape = shape
            for _ in range(repeats):
                net.depthwise(act="linear").conv(channels)
            net.depthwise(act="linear").conv(outputs, act="linear")
    return net


def mobileone(width: tuple[float, float, float, float], size: int = 224, *, squeeze: int = 0) -> Net:
    """Re-parameterized: plain depthwise and 1×1 convolutions at inference."""
    net = Net("mobileone", size).conv(min(64, int(64 * width[0])), 3, 2)
    for channels, blocks, factor in zip((64, 128, 256, 512), (2, 8, 10, 1), width, strict=True):
        for i in range(blocks):
            net.depthwise(3, 2 if i == 0 else 1).conv(int(channels * factor))
    return classifier(net)


def posenet(size: int = 257) -> Net:
    """PoseNet on MobileNet v1 with output stride 32 and its four 1×1 heads (17 keypoints)."""
    net = Net("posenet", size).conv(32, 3, 2)
    for channels, stride in MOBILENET_V1:
        net.depthwise(3, stride).conv(channels)
    end = net.shape
    for outputs in (17, 34, 32, 32):
        net.shape = end
        net.conv(outputs, act="linear")
    return net
