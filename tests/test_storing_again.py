"""A model is converted once and stored with any zeros: the file is the one that a whole export would write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy import planning
from idp_deploy.exporting import convert, export, store
from idp_deploy.flow import Budget, CompressedModel, FormatName, Model, Recipe
from idp_deploy.pruning import one_shot
from idp_deploy.reading import read
from idp_deploy.simulation.targets import load_target
from idp_deploy.verification import verify
from tests.formats_here import HERE

IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)


class Net(nn.Module):
    """A convolution with a norm, a depthwise one, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.hidden, self.head = nn.Linear(32, 96), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.stem(x)).relu()).relu().mean((2, 3))
        logits: Tensor = self.head(self.hidden(x).relu())
        return logits


class Scaled(nn.Module):
    """A weight that is stored multiplied as well: its zeros are in two constants, one of which nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x @ (self.layer.weight * 2.0)
        return scaled


def build(kind: type[nn.Module]) -> Model:
    torch.manual_seed(0)
    return Model(kind().eval())


def dense(model: Model, like: CompressedModel) -> CompressedModel:
    return CompressedModel(model.module, {name: torch.ones_like(mask) for name, mask in like.masks.items()})


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_what_is_stored_again_is_what_an_export_writes(format: FormatName, tmp_path: Path) -> None:
    model, suffix = build(Net), HERE[format].suffix
    conversion = None
    for sparsity in (0.95, 0.5):
        pruned = one_shot(model, Recipe(sparsity=sparsity), IMAGE)
        conversion = conversion or convert(dense(model, pruned), format, IMAGE)
        assert conversion.holds(pruned)
        again = store(conversion, tmp_path / f"again{suffix}", pruned, proved=False)
        fresh = export(pruned, format, IMAGE, tmp_path / f"fresh{suffix}")
        assert verify(again.path, pruned, IMAGE).passed
        found = [
            {(t.shape, t.encoding, t.size_bytes, t.zeros) for t in read(one.path).tensors} for one in (again, fresh)
        ]
        assert found[0] == found[1]
        assert abs(again.size_bytes - fresh.size_bytes) <= 64
        assert again.manifest["zeros"] == fresh.manifest["zeros"]


@pytest.mark.parametrize("format", HERE)
def test_a_conversion_holds_no_other_weights(format: FormatName) -> None:
    model = build(Net)
    pruned = one_shot(model, Recipe(sparsity=0.5), IMAGE)
    conversion = convert(dense(model, pruned), format, IMAGE)
    with torch.no_grad():
        model.module.get_parameter("head.bias").add_(1)
    assert not conversion.holds(one_shot(model, Recipe(sparsity=0.5), IMAGE))


@pytest.mark.parametrize("format", HERE)
def test_a_weight_that_a_converter_hides_is_converted_again(format: FormatName) -> None:
    model, x = build(Scaled), (torch.randn(2, 32),)
    pruned = one_shot(model, Recipe(sparsity=0.5), x)
    conversion = convert(dense(model, pruned), format, x)
    assert conversion.holds(pruned) is ("layer.weight" in conversion.converted.tensors)


def test_planning_converts_a_model_once_for_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[FormatName] = Counter()

    def counted(model: CompressedModel, format: FormatName, *arguments: Any, **options: Any) -> Any:
        seen[format] += 1
        return convert(model, format, *arguments, **options)

    monkeypatch.setattr(planning.costs, "convert", counted)
    target = load_target("pixel-4")
    budgets = [Budget("pixel-4", format, "size", 12_000.0, "here") for format in ("onnx", "tflite")]
    tried: list[str] = []
    found = planning.sparsity_for(build(Net), IMAGE, Recipe(), target, budgets, announce=tried.append)
    assert 0.5 <= found < 0.98
    assert len(tried) >= 3
    assert seen == {"onnx": 1, "tflite": 1}


def test_planning_converts_again_what_channels_left() -> None:
    target = load_target("pixel-4")
    budgets = [Budget("pixel-4", "onnx", "size", 30_000.0, "here")]
    assert planning.sparsity_for(build(Net), IMAGE, Recipe(pattern="channel"), target, budgets) <= 0.98
