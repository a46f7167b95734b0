"""Published architectures by name, so that a measurement of one can calibrate a device or anchor a prediction.

>>> architecture("mobilenet_v1_1.0_224").macs // 1_000_000
568
>>> architecture("mobilenet_v2_0.35_96").macs // 1_000_000
11
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from idp_deploy.errors import UsageError
from idp_deploy.simulation import classic_nets as classic
from idp_deploy.simulation import mobile_nets as mobile
from idp_deploy.simulation.descriptions import read_description
from idp_deploy.simulation.layers import Net
from idp_deploy.simulation.targets import folder
from idp_deploy.simulation.work import Workload

ARCHITECTURES: dict[str, Callable[[], Net]] = {
    "alexnet": classic.alexnet,
    **{f"vgg{n}": lambda n=n: classic.vgg(n) for n in classic.VGG},  # type: ignore[misc]
    **{f"resnet{n}": lambda n=n: classic.resnet(n) for n in classic.RESNET},  # type: ignore[misc]
    "resnet50_v2": lambda: classic.resnet(50, preactivated=True),
    "resnet101_v2_299": lambda: classic.resnet(101, 299, preactivated=True),
    "squeezenet_1.0": lambda: classic.squeezenet(1.0, 224),
    "squeezenet_1.0_227": lambda: classic.squeezenet(1.0, 227),
    "squeezenet_1.1": lambda: classic.squeezenet(1.1, 224),
    "squeezenet_1.1_227": lambda: classic.squeezenet(1.1, 227),
    "googlenet": classic.googlenet,
    "inception_v3": classic.inception_v3,
    "inception_v4": classic.inception_v4,
    "inception_resnet_v2": classic.inception_resnet_v2,
    **{f"densenet{n}": lambda n=n: classic.densenet(n) for n in classic.DENSENET},  # type: ignore[misc]
    "vit_b16": classic.vit_b16,
    "vit_b16_384": lambda: classic.vit_b16(384),
    "bert-base": classic.bert,
    "mobilenet_v3_small": lambda: mobile.mobilenet_v3(mobile.MOBILENET_V3_SMALL, 1024),
    "mobilenet_v3_small_0.75": lambda: mobile.mobilenet_v3(mobile.MOBILENET_V3_SMALL, 1024, 0.75),
    "mobilenet_v3_small_minimalistic": lambda: mobile.mobilenet_v3(mobile.MOBILENET_V3_SMALL, 1024, minimal=True),
    "mobilenet_v3_large": lambda: mobile.mobilenet_v3(mobile.MOBILENET_V3_LARGE, 1280),
    "mobilenet_v3_large_0.75": lambda: mobile.mobilenet_v3(mobile.MOBILENET_V3_LARGE, 1280, 0.75),
    "mobilenet_v3_large_minimalistic": lambda: mobile.mobilenet_v3(mobile.MOBILENET_V3_LARGE, 1280, minimal=True),
    "efficientnet_b0": mobile.efficientnet,
    "efficientnet_lite0": lambda: mobile.efficientnet(lite=True),
    "shufflenet_v2_0.5": lambda: mobile.shufflenet_v2((48, 96, 192)),
    "shufflenet_v2_1.0": mobile.shufflenet_v2,
    "shufflenet_v2_1.5": lambda: mobile.shufflenet_v2((176, 352, 704)),
    "ghostnet_1.0": mobile.ghostnet,
    "ssd_mobilenet_v1_coco_300": mobile.ssd_mobilenet_v1,
    "ssd_mobilenet_v2_300": mobile.ssd_mobilenet_v2,
    "ssdlite_mobilenet_v2_300": lambda: mobile.ssd_mobilenet_v2(lite=True),
    "efficientdet-lite0": mobile.efficientdet_lite,
    "efficientdet-lite1": lambda: mobile.efficientdet_lite(384, 1.0, 1.1, 88, 4),
    "efficientdet-lite2": lambda: mobile.efficientdet_lite(448, 1.1, 1.2, 112, 5),
    "posenet_mobilenet_v1": mobile.posenet,
    "mobileone_s1": lambda: mobile.mobileone((1.5, 1.5, 2.0, 2.5)),
    "mobileone_s2": lambda: mobile.mobileone((1.5, 2.0, 2.5, 4.0)),
    "mobileone_s3": lambda: mobile.mobileone((2.0, 2.5, 3.0, 4.0)),
}
# <family>_<width>_<input size>
FAMILIES: dict[str, Callable[[float, int], Net]] = {
    "mobilenet_v1": mobile.mobilenet_v1,
    "mobilenet_v2": mobile.mobilenet_v2,
    "mnasnet": mobile.mnasnet,
}
# names under which the same network is published
ALIASES = {
    "mobilenet_v1": "mobilenet_v1_1.0_224", "mobilenet_v2": "mobilenet_v2_1.0_224", "mnasnet": "mnasnet_1.0_224",
    "mnasnet_1.0": "mnasnet_1.0_224", "mnasnet_0.5": "mnasnet_0.5_224", "resnet50_v1": "resnet50",
    "squeezenet_2018": "squeezenet_1.0", "squeezenet": "squeezenet_1.1", "resnet_v2_101_299": "resnet101_v2_299",
    "mobilenet_v3": "mobilenet_v3_large", "shufflenet_v2": "shufflenet_v2_1.0", "ghostnet": "ghostnet_1.0",
    "vgg11_bn": "vgg11", "vgg13_bn": "vgg13", "vgg16_bn": "vgg16", "vgg19_bn": "vgg19",
    "ssd_mobilenet_v2_coco": "ssd_mobilenet_v2_300",
}  # fmt: skip


@cache
def described() -> dict[str, Path]:
    """Networks as a benchmark measured them, where they are not the textbook's: descriptions in targets/networks."""
    return {f"ncnn_{path.stem}": path for path in sorted((folder() / "networks").glob("*.json"))}


def known(name: str) -> bool:
    """Whether `architecture(name)` succeeds."""
    name = ALIASES.get(name, name)
    return name in ARCHITECTURES or name in described() or _scaled(name) is not None


def _scaled(name: str) -> Net | None:
    match = re.fullmatch(r"(mobilenet_v1|mobilenet_v2|mnasnet)_(\d\.\d+)_(\d+)", name)
    return FAMILIES[match[1]](float(match[2]), int(match[3])) if match else None


@cache
def architecture(name: str) -> Workload:
    """The work of a published architecture, float32, batch 1.

    Raises:
        UsageError: unknown name; the message lists the nearest ones.
    """
    canonical = ALIASES.get(name, name)
    if canonical in described():
        return replace(read_description(described()[canonical], architecture)[0], name=name)
    net = ARCHITECTURES[canonical]() if canonical in ARCHITECTURES else _scaled(canonical)
    if net is None:
        choices = [
            *ARCHITECTURES,
            *described(),
            *ALIASES,
            "mobilenet_v1_0.5_160",
            "mobilenet_v2_0.75_192",
            "mnasnet_1.3_224",
        ]
        near = difflib.get_close_matches(name, choices, 3, 0.3)
        listed = f"nearest: {', '.join(near)}" if near else f"known are {', '.join(ARCHITECTURES)}, …"
        raise UsageError(f"unknown architecture {name!r}", way_out=f"{listed}; or name a model file that was timed")
    net.name = name
    return net.workload()
