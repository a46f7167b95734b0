"""Films through convolutions in groups, which TFLite has for images alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.rewriting.volumes import in_groups
from idp_deploy.verification import verify

# kernel, stride, padding, dilation, groups, outputs of 4 channels
KINDS = [
    ((3, 3, 3), [1], [1], [1], 4, 8),
    ((3, 1, 1), [2, 2, 2], [1, 0, 0], [2, 1, 1], 2, 6),
    ((1, 3, 3), [2, 1, 1], [0, 1, 1], [1, 2, 2], 4, 4),
    ((5, 3, 3), [1, 2, 2], [2, 1, 1], [1], 2, 4),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups", "outputs"), KINDS)
def test_frames_beside_each_other_are_a_volume(kernel, stride, padding, dilation, groups, outputs) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias = torch.randn(2, 4, 7, 9, 8), torch.randn(outputs, 4 // groups, *kernel), torch.randn(outputs)
    wanted = F.conv3d(
        x, weight, bias, *(tuple(each * (3 // len(each))) for each in (stride, padding, dilation)), groups
    )
    found = in_groups(x, weight, bias, stride, padding, dilation, groups)
    assert found is not None
    assert torch.allclose(found, wanted, atol=1e-5)
    assert in_groups(x, torch.randn(2, 4, 1, 1, 1)) is None


def film() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 8, 1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1, groups=2), nn.BatchNorm3d(8))


def scan() -> nn.Module:
    """Half the extents at once, as encoders of medical images begin: the converter ended its process there."""
    return nn.Sequential(nn.Conv3d(1, 8, 3, stride=2, padding=1), nn.InstanceNorm3d(8), nn.PReLU(), nn.Conv3d(8, 4, 1))


@pytest.mark.parametrize("scheme", ["", "int8"])
@pytest.mark.parametrize(("build", "channels"), [(film, 3), (scan, 1)])
def test_a_film_goes_to_tflite(build: Callable[[], nn.Module], channels: int, scheme: str, tmp_path: Path) -> None:
    """The weight stored once and pruned."""
    torch.manual_seed(0)
    model, inputs = one_shot(Model(build().eval()), Recipe(0.5)), (torch.randn(1, channels, 4, 6, 6),)
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    parity = verify(export(model, "tflite", inputs, tmp_path / "m.tflite").path, model, inputs)
    assert parity.passed, (parity.outputs, parity.weights)
    assert len(parity.weights) == 2


@pytest.mark.parametrize("affine", [True, False])
def test_groups_of_a_volume_go_to_core_ml(affine: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.GroupNorm(4, 8, 1e-3, affine), nn.ReLU(), nn.Conv3d(8, 4, 1))
    model, inputs = one_shot(Model(net.eval()), Recipe(0.5)), (torch.randn(2, 2, 4, 6, 5),)
    parity = verify(export(model, "coreml", inputs, tmp_path / "m.mlpackage").path, model, inputs)
    assert parity.passed, (parity.outputs, parity.notes)
