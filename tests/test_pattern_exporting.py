"""Convolutions pruned in blocks and N:M groups: the file holds the hardened weights bit for bit, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.masks import parse_pattern, prunable_weights
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify

PATTERNS = ("block:1x4", "block:4x1", "block:1x16", "2:4", "1:4")
CASES: tuple[tuple[FormatName, dict[str, Any]], ...] = (
    ("onnx", {}),
    ("coreml", {"precision": "float32"}),
    ("tflite", {}),
)
IMAGE = (torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1)),)


class Convolutions(nn.Module):
    """3×3, 5×5 with stride, grouped, depthwise, dilated and transposed, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.strided = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 5, 2, 2)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.dilated = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.transposed = nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1)
        self.out = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.strided(F.relu(self.plain(x))))
        x = F.relu(self.dilated(F.relu(self.depthwise(F.relu(self.grouped(x))))))
        x = self.transposed(x)
        return self.out(F.relu(x).mean((2, 3))), x


def hardened(pattern_name: str) -> CompressedModel:
    """Three quarters of every weight zero (half for 2:4), in the pattern where it divides the weight."""
    torch.manual_seed(0)
    module, masks = Convolutions().eval(), {}
    pattern = parse_pattern(pattern_name)
    for name, prunable in prunable_weights(module).items():
        weight = module.get_parameter(name)
        shape, axis = tuple(weight.shape), prunable.output_axis
        if weight.numel() // shape[axis] % 4 and pattern_name != "block:4x1":
            continue  # depthwise: nine inputs
        unit = pattern.unit(shape, axis)
        zeros = weight.numel() // (2 if pattern_name == "2:4" else 4 / 3)
        masks[name] = pattern.hard_mask(weight, int(zeros // unit * unit), axis, floor=True)
        weight.data *= masks[name] * 2
    return CompressedModel(module, masks)


@pytest.mark.wide
@pytest.mark.parametrize("scheme", [None, pytest.param("int8-weights", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("format", "options"), CASES, ids=[format for format, _ in CASES])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_file_holds_the_hardened_weights(
    pattern: str, format: FormatName, options: dict[str, Any], scheme: str | None, tmp_path: Path
) -> None:
    model = hardened(pattern)
    assert len(model.masks) == (7 if pattern == "block:4x1" else 6)
    assert model.sparsity == pytest.approx(0.5 if pattern == "2:4" else 0.75, abs=0.02)
    if scheme:
        model = quantize(model, scheme, example_inputs=IMAGE)
    path = tmp_path / f"model{FORMATS[format].suffix}"
    export(model, format, IMAGE, path, **options)
    parity = verify(path, model, IMAGE)
    assert parity.passed, parity
    assert {proof.parameter for proof in parity.weights} == set(model.masks)
    for proof in parity.weights:
        assert proof.zeros == proof.expected_zeros == int((~model.masks[proof.parameter]).sum())
        assert proof.max_relative_error <= (1e-6 if scheme else 0)
