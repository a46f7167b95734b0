"""The four networks whose files are weighed, with random weights pruned by magnitude to 90 % zeros in every layer.

Positions of zeros and values of the others are then as random as they can be: no encoder can profit from structure
that training happened to leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idp_deploy.flow import CompressedModel, Recipe
from idp_deploy.masks import prunable_weights
from sample_models import bert, mobilenet_v1, resnet18

# expansion, output channels, repeats, stride of the first (Sandler et al. 2018, arXiv 1801.04381, table 2)
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand by a 1×1 convolution, filter each channel, project back; the sum skips the block where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else _conv(inputs, hidden, 1)
        layers += _conv(hidden, hidden, 3, stride, groups=hidden)
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.body = nn.Sequential(*layers)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.body(x)
        return x + out if self.skips else out


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    """MobileNetV2 of width 1.0: 3.5 M parameters."""
    layers: list[nn.Module] = _conv(3, 32, 3, stride=2)
    channels = 32
    for expansion, outputs, repeats, stride in _STAGES:
        for i in range(repeats):
            layers.append(InvertedResidual(channels, outputs, stride if i == 0 else 1, expansion))
            channels = outputs
    layers += [*_conv(channels, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes)]
    return nn.Sequential(*layers)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]


@dataclass(frozen=True)
class Network:
    """One row's network. `inputs` draws the positional arguments of one call."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


def _image() -> tuple[Tensor, ...]:
    return (torch.randn(1, 3, 224, 224),)


def _sentence() -> tuple[Tensor, ...]:
    return torch.randint(0, 8000, (1, 64)), torch.zeros(1, 64, dtype=torch.int64), torch.ones(1, 64, dtype=torch.int64)


MODELS: dict[str, Network] = {
    "mobilenet_v2": Network(mobilenet_v2, _image),
    "mobilenet_v1": Network(lambda: mobilenet_v1.build(1.0, classes=1000), _image),
    "resnet18": Network(lambda: resnet18.build(1.0, classes=1000, small_images=False), _image),
    "bert": Network(lambda: bert.build(8000, 256, 4, 4, 64), _sentence),
}


def pruned(network: Network, sparsity: float = 0.9, seed: int = 0) -> tuple[CompressedModel, tuple[Tensor, ...]]:
    """The network with exactly round(sparsity · n) zeros in each prunable weight, and one call's inputs."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = network.build()
        for owner in module.modules():  # statistics that folding has something to do with
            if isinstance(owner, nn.BatchNorm2d):
                nn.init.normal_(owner.bias, std=0.1)
                nn.init.uniform_(owner.weight, 0.5, 1.5)
        masks = {}
        for name in prunable_weights(module):
            weight = module.get_parameter(name)
            order = weight.abs().flatten().argsort(stable=True)
            mask = torch.ones(weight.numel(), dtype=torch.bool)
            mask[order[: round(sparsity * weight.numel())]] = False
            masks[name] = mask.view(weight.shape)
            weight.mul_(masks[name] * (1 - sparsity) ** -0.5)
        return CompressedModel(module.eval(), masks, Recipe(sparsity=sparsity, method="magnitude")), network.inputs()
