"""int8 after network slimming: batch-norm factors near zero, whose channels are almost nothing but their bias."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.formats_here import HERE

IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)
FACTORS = (1.0, 0.5, 1e-4, 1e-6, 1e-8, 1e-12, 0.0, 1.5)


def slimmed(shift: float) -> CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]
        for norm in norms:
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data = torch.tensor(FACTORS)
            nn.init.uniform_(norm.bias, 0.2 * shift, shift)
        body = [part for pair in zip(convolutions, norms, strict=True) for part in (*pair, nn.ReLU())]
        module = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in module.named_parameters() if p.dim() > 1}
    return CompressedModel(module, masks)


def test_a_channel_too_faint_for_its_bias_is_zero_and_said() -> None:
    quantized = quantize(slimmed(1.0), "int8", example_inputs=IMAGE)
    alive = quantized.module[0].weight.flatten(1).any(1)
    assert alive.tolist() == [True, True, True, False, False, False, False, True]
    assert torch.equal(quantized.masks["0.weight"].flatten(1).any(1), alive)
    assert quantized.quantization is not None
    assert any("3 of 8 channels of '0.weight' are zero in int8" in note for note in quantized.quantization.notes)


def test_other_schemes_keep_faint_channels() -> None:
    quantized = quantize(slimmed(1.0), "int8-weights", example_inputs=IMAGE)
    assert quantized.module[0].weight.flatten(1).any(1).tolist() == [factor > 0 for factor in FACTORS]


@pytest.mark.wide
@pytest.mark.parametrize("shift", [1.0, 0.0])
@pytest.mark.parametrize("format", HERE)
def test_the_file_agrees(format: FormatName, shift: float, tmp_path: Path) -> None:
    quantized = quantize(slimmed(shift), "int8", example_inputs=IMAGE)
    path = export(quantized, format, IMAGE, tmp_path / f"net{FORMATS[format].suffix}").path
    parity = verify(path, quantized, IMAGE)
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]
