"""A network, its factory and checkpoints that the loading tests share; names for what a factory can get wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy.errors import FileError
from idp_deploy.flow import CompressedModel, MaskedModel, Provenance, Quantization, Recipe, SoftMask
from idp_deploy.loading import (
    save_checkpoint,
)

HERE = __name__


class Net(nn.Module):
    """Every kind of entry a state dict has: convolution, depthwise, batch norm buffers, linear, a tied table."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.depthwise(self.stem(x)).mean((2, 3)))


def build() -> Net:
    torch.manual_seed(7)
    return Net()


def build_wide() -> Net:
    return Net(16)


def needs_arguments(width: int) -> Net:
    return Net(width)


def fails() -> Net:
    raise RuntimeError("no weights today")


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(torch.nn.Linear(2, 2))


def lost_task() -> None:
    raise FileError("no data here")


def returns_dict() -> dict[str, int]:
    return {}


NOT_CALLABLE = 3
FACTORY = f"{HERE}:build"
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def source() -> Net:
    """Other weights than the factory's."""
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    module(X)
    return module


PRUNED = ("stem.0.weight", "depthwise.weight", "head.weight")
RECIPE = Recipe(sparsity=0.5, skip=("stem.*",), options={"kappa": 10.0, "groups": [1, 2]})
PROVENANCE = Provenance(FACTORY, "t:task", "ab" * 32, 3, {"torch": "2"}, ("prune",))


def compressed(module: nn.Module | None = None) -> CompressedModel:
    module = module or source()
    masks = {}
    generator = torch.Generator().manual_seed(3)
    for name in PRUNED:
        weight = module.get_parameter(name)
        masks[name] = torch.rand(weight.shape, generator=generator) > 0.5
        with torch.no_grad():
            weight.mul_(masks[name])
    quantization = Quantization("int8", {"head.weight": 40.5}, {"stem.0.weight": "sensitive"}, ((X,), (X[:1],)))
    return CompressedModel(module.eval(), masks, RECIPE, quantization, PROVENANCE)


def masked() -> MaskedModel:
    return MaskedModel(source().eval(), {name: SoftMask(0.1, 1e-3, 4, "1:4") for name in PRUNED}, RECIPE, PROVENANCE)


def edited(change: Callable[[dict[str, Any]], Any], model: CompressedModel | MaskedModel, path: Path) -> Path:
    save_checkpoint(model, path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def lazy() -> nn.Module:
    """Layers whose sizes a first call tells."""
    first = [nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyConvTranspose1d(2, 3)]
    return nn.Sequential(*first, nn.Flatten(), nn.LazyLinear(5))
