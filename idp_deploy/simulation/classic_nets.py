"""Published server-born architectures as work: AlexNet, VGG, Inception, ResNet, SqueezeNet, DenseNet, transformers.

AlexNet (the one-tower variant, arXiv:1404.5997), VGG arXiv:1409.1556, GoogLeNet arXiv:1409.4842 (as in torchvision,
3×3 in place of 5×5), Inception v3 arXiv:1512.00567, v4 and Inception-ResNet v2 arXiv:1602.07261, ResNet
arXiv:1512.03385 (stride on the 3×3), v2 arXiv:1603.05027, SqueezeNet arXiv:1602.07360, DenseNet arXiv:1608.06993,
HRNet arXiv:1908.07919, ViT arXiv:2010.11929, BERT arXiv:1810.04805, TinyBERT arXiv:1909.10351.
"""

from __future__ import annotations

from idp_deploy.simulation.layers import Net

VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
RESNET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
DENSENET = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
# 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection
GOOGLENET = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


def alexnet(size: int = 224) -> Net:
    """Five convolutions, three large fully connected layers."""
    net = Net("alexnet", size)
    net.shape = (size + 3, size + 3, 3)
    net.conv(64, 11, 4, padding="valid").pool(3, 2, padding="valid").conv(192, 5).pool(3, 2, padding="valid")
    net.conv(384, 3).conv(256, 3).conv(256, 3).pool(3, 2, padding="valid")
    return net.flatten().linear(4096).linear(4096).linear(1000)


def vgg(depth: int, size: int = 224) -> Net:
    """3×3 convolutions and 124 M parameters of fully connected layers."""
    net = Net("vgg", size)
    for channels, repeats in zip((64, 128, 256, 512, 512), VGG[depth], strict=True):
        for _ in range(repeats):
            net.conv(channels, 3)
        net.pool(2, 2)
    return net.flatten().linear(4096).linear(4096).linear(1000)


def resnet(depth: int, size: int = 224, *, preactivated: bool = False) -> Net:
    """Basic blocks below 50 layers, bottlenecks from there; `preactivated` is v2 with its unfused normalizations."""
    net = Net("resnet", size).conv(64, 7, 2).pool(3, 2)
    wide = 4 if depth >= 50 else 1
    for stage, (channels, repeats) in enumerate(zip((64, 128, 256, 512), RESNET[depth], strict=True)):
        for i in range(repeats):
            stride = 2 if i == 0 and stage > 0 else 1
            out = channels * wide

            def path(net: Net, channels: int = channels, stride: int = stride, out: int = out) -> None:
                if preactivated:
                    net.pointwise()
                if wide == 1:
                    net.conv(channels, 3, stride).conv(channels, 3, act="linear")
                else:
                    net.conv(channels).conv(channels, 3, stride).conv(out, act="linear")

            def shortcut(net: Net, stride: int = stride, out: int = out) -> None:
                net.conv(out, 1, stride, act="linear")

            net.residual(path, shortcut if net.shape[2] != out or stride > 1 else None)
    return net.mean().linear(1000)


def squeezenet(version: float, size: int = 224) -> Net:
    """Fire modules: squeeze 1×1, expand 1×1 beside 3×3."""
    net = Net("squeezenet", size)
    net = net.conv(96, 7, 2, padding="valid") if version == 1.0 else net.conv(64, 3, 2, padding="valid")
    pools = (0, 3, 7) if version == 1.0 else (0, 2, 4)
    for index, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if index in pools:
            net.pool(3, 2, padding="ceil")
        net.conv(squeeze).branches(lambda n, e=4 * squeeze: n.conv(e), lambda n, e=4 * squeeze: n.conv(e, 3))  # type: ignore[misc]
    return net.conv(1000).mean()


def googlenet(size: int = 224) -> Net:
    """Nine inception modules."""
    net = Net("googlenet", size).conv(64, 7, 2).pool(3, 2).conv(64).conv(192, 3).pool(3, 2)
    for index, (one, three_in, three, five_in, five, pool) in enumerate(GOOGLENET):
        if index in (2, 7):
            net.pool(3, 2)
        net.branches(
            lambda n, o=one: n.conv(o),  # type: ignore[misc]
            lambda n, i=three_in, o=three: n.conv(i).conv(o, 3),  # type: ignore[misc]
            lambda n, i=five_in, o=five: n.conv(i).conv(o, 3),  # type: ignore[misc]
            lambda n, o=pool: n.pool(3, 1).conv(o),  # type: ignore[misc]
        )
    return net.mean().linear(1000)


def inception_v3(size: int = 299) -> Net:
    """Factorized convolutions: 1×7 and 7×1, 1×3 and 3×1."""
    net = Net("inception_v3", size).conv(32, 3, 2, padding="valid").conv(32, 3, padding="valid").conv(64, 3)
    net.pool(3, 2, padding="valid").conv(80).conv(192, 3, padding="valid").pool(3, 2, padding="valid")
    for pool in (32, 64, 64):
        net.branches(
            lambda n: n.conv(64),
            lambda n: n.conv(48).conv(64, 5),
            lambda n: n.conv(64).conv(96, 3).conv(96, 3),
            lambda n, p=pool: n.pool(3, 1).conv(p),  # type: ignore[misc]
        )
    net.branches(
        lambda n: n.conv(384, 3, 2, padding="valid"),
        lambda n: n.conv(64).conv(96, 3).conv(96, 3, 2, padding="valid"),
        lambda n: n.pool(3, 2, padding="valid"),
    )
    for c in (128, 160, 160, 192):
        net.branches(
            lambda n: n.conv(192),
            lambda n, c=c: n.conv(c).conv(c, (1, 7)).conv(192, (7, 1)),  # type: ignore[misc]
            lambda n, c=c: n.conv(c).conv(c, (7, 1)).conv(c, (1, 7)).conv(c, (7, 1)).conv(192, (1, 7)),  # type: ignore[misc]
            lambda n: n.pool(3, 1).conv(192),
        )
    net.branches(
        lambda n: n.conv(192).conv(320, 3, 2, padding="valid"),
        lambda n: n.conv(192).conv(192, (1, 7)).conv(192, (7, 1)).conv(192, 3, 2, padding="valid"),
        lambda n: n.pool(3, 2, padding="valid"),
    )
    for _ in range(2):
        net.branches(
            lambda n: n.conv(320),
            lambda n: n.conv(384).branches(lambda m: m.conv(384, (1, 3)), lambda m: m.conv(384, (3, 1))),
            lambda n: n.conv(448).conv(384, 3).branches(lambda m: m.conv(384, (1, 3)), lambda m: m.conv(384, (3, 1))),
            lambda n: n.pool(3, 1).conv(192),
        )
    return net.mean().linear(1000)


def inception_stem(size: int, name: str) -> Net:
    """The common stem of v4 (and of Inception-ResNet v2 in its first layers)."""
    return Net(name, size).conv(32, 3, 2, padding="valid").conv(32, 3, padding="valid").conv(64, 3)


def inception_v4(size: int = 299) -> Net:
    """4 + 7 + 3 modules."""
    net = inception_stem(size, "inception_v4")
    net.branches(lambda n: n.pool(3, 2, padding="valid"), lambda n: n.conv(96, 3, 2, padding="valid"))
    net.branches(
        lambda n: n.conv(64).conv(96, 3, padding="valid"),
        lambda n: n.conv(64).conv(64, (1, 7)).conv(64, (7, 1)).conv(96, 3, padding="valid"),
    )
    net.branches(lambda n: n.conv(192, 3, 2, padding="valid"), lambda n: n.pool(3, 2, padding="valid"))
    for _ in range(4):
        net.branches(
            lambda n: n.conv(96),
            lambda n: n.conv(64).conv(96, 3),
            lambda n: n.conv(64).conv(96, 3).conv(96, 3),
            lambda n: n.pool(3, 1).conv(96),
        )
    net.branches(
        lambda n: n.conv(384, 3, 2, padding="valid"),
        lambda n: n.conv(192).conv(224, 3).conv(256, 3, 2, padding="valid"),
        lambda n: n.pool(3, 2, padding="valid"),
    )
    for _ in range(7):
        net.branches(
            lambda n: n.conv(384), lambda n: n.conv(192).conv(224, (1, 7)).conv(256, (7, 1)),
            lambda n: n.conv(192).conv(192, (1, 7)).conv(224, (7, 1)).conv(224, (1, 7)).conv(256, (7, 1)),
            lambda n: n.pool(3, 1).conv(128),
        )  # fmt: skip
    net.branches(
        lambda n: n.conv(192).conv(192, 3, 2, padding="valid"),
        lambda n: n.conv(256).conv(256, (1, 7)).conv(320, (7, 1)).conv(320, 3, 2, padding="valid"),
        lambda n: n.pool(3, 2, padding="valid"),
    )
    for _ in range(3):
        net.branches(
            lambda n: n.conv(256),
            lambda n: n.conv(384).branches(lambda m: m.conv(256, (1, 3)), lambda m: m.conv(256, (3, 1))),
            lambda n: n.conv(384).conv(448, (1, 3)).conv(512, (3, 1))
                       .branches(lambda m: m.conv(256, (1, 3)), lambda m: m.conv(256, (3, 1))),
            lambda n: n.pool(3, 1).conv(256),
        )  # fmt: skip
    return net.mean().linear(1000)


def inception_resnet_v2(size: int = 299) -> Net:
    """10 + 20 + 10 residual modules."""
    net = inception_stem(size, "inception_resnet_v2")
    net.pool(3, 2, padding="valid").conv(80).conv(192, 3, padding="valid").pool(3, 2, padding="valid")
    net.branches(
        lambda n: n.conv(96),
        lambda n: n.conv(48).conv(64, 5),
        lambda n: n.conv(64).conv(96, 3).conv(96, 3),
        lambda n: n.pool(3, 1).conv(64),
    )
    for _ in range(10):
        net.residual(
            lambda n: n.branches(
                lambda m: m.conv(32), lambda m: m.conv(32).conv(32, 3), lambda m: m.conv(32).conv(48, 3).conv(64, 3)
            ).conv(320, act="linear")
        )
    net.branches(
        lambda n: n.conv(384, 3, 2, padding="valid"),
        lambda n: n.conv(256).conv(256, 3).conv(384, 3, 2, padding="valid"),
        lambda n: n.pool(3, 2, padding="valid"),
    )
    for _ in range(20):
        net.residual(
            lambda n: n.branches(lambda m: m.conv(192), lambda m: m.conv(128).conv(160, (1, 7)).conv(192, (7, 1))).conv(
                1088, act="linear"
            )
        )
    net.branches(
        lambda n: n.conv(256).conv(384, 3, 2, padding="valid"),
        lambda n: n.conv(256).conv(288, 3, 2, padding="valid"),
        lambda n: n.conv(256).conv(288, 3).conv(320, 3, 2, padding="valid"),
        lambda n: n.pool(3, 2, padding="valid"),
    )
    for _ in range(10):
        net.residual(
            lambda n: n.branches(lambda m: m.conv(192), lambda m: m.conv(192).conv(224, (1, 3)).conv(256, (3, 1))).conv(
                2080, act="linear"
            )
        )
    return net.conv(1536).mean().linear(1000)


def densenet(depth: int, size: int = 224) -> Net:
    """Every layer reads all before it; the normalization before each convolution cannot be folded."""
    growth, stem = (48, 96) if depth == 161 else (32, 64)
    net = Net("densenet", size).conv(stem, 7, 2).pool(3, 2)
    for stage, repeats in enumerate(DENSENET[depth]):
        for _ in range(repeats):
            h, w, c = net.shape
            net.norm().conv(4 * growth, bias=True).conv(growth, 3, act="linear").move((h, w, c + growth))
        if stage < 3:
            net.norm().conv(net.shape[2] // 2, act="linear").pool(2, 2)
    return net.norm().mean().linear(1000)


def encoder(net: Net, layers: int, width: int, heads: int, hidden: int, *, rows: int) -> Net:
    """Transformer layers over `rows` tokens of `width`."""
    for _ in range(layers):
        net.pointwise()
        for _ in range(3):
            net.shape = (rows, 1, width)
            net.linear(width)
        net.matmul(rows, width // heads, rows, heads).activation("softmax").matmul(width // heads, rows, rows, heads)
        net.shape = (rows, 1, width)
        net.linear(width).pointwise(2).pointwise().linear(hidden).activation("gelu").linear(width).pointwise(2)
    return net.pointwise()


def vit_b16(size: int = 224) -> Net:
    """12 layers, 768 wide, patches of 16."""
    net = Net("vit_b16", size).conv(768, 16, 16, act="linear")
    rows = net.shape[0] * net.shape[1] + 1
    net.shape = (rows, 1, 768)
    encoder(net, 12, 768, 12, 3072, rows=rows)
    net.shape = (1, 1, 768)
    return net.linear(1000)


def bert(layers: int = 12, width: int = 768, heads: int = 12, hidden: int = 3072, *, rows: int = 128) -> Net:
    """The encoder without its embedding tables (a look-up, no arithmetic)."""
    net = Net("bert", 1)
    net.shape = (rows, 1, width)
    return encoder(net, layers, width, heads, hidden, rows=rows)
