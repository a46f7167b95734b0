"""Resizing with `antialias=True`, as products with matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.images import smoothed
from idp_deploy.verification import verify


@pytest.mark.wide
@pytest.mark.parametrize(("mode", "reach"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(5, 4), (13, 20), (3, 31), (9, 11), (1, 1), (2, 7)])
def test_pixels_are_smoothed_as_torch_does(mode: str, reach: int, corners: bool, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 9, 11)
    wanted = F.interpolate(x, size, mode=mode, align_corners=corners, antialias=True)
    assert torch.allclose(smoothed(x, list(size), corners, None, reach), wanted, atol=1e-5)


@pytest.mark.parametrize(("mode", "reach"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("factors", [[0.5, 0.37], [1.7, 0.9]])
def test_a_factor_is_taken_as_it_was_given(mode: str, reach: int, factors: list[float]) -> None:
    x = torch.randn(2, 3, 9, 11)
    wanted = F.interpolate(x, scale_factor=factors, mode=mode, antialias=True)
    assert torch.allclose(smoothed(x, None, False, factors, reach), wanted, atol=1e-5)


class Places(nn.Module):
    """A table of places, resized to the tokens that there are, and an image made smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 8, 7, 7))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(F.interpolate(image, (24, 28), mode="bilinear", antialias=True))
        return tokens + F.interpolate(self.places, tokens.shape[-2:], mode="bicubic", antialias=True)


@pytest.mark.wide
@pytest.mark.parametrize("format", [format for format in FORMATS if format in ("onnx", "coreml", "tflite")])
def test_smoothed_resizing_goes_to_every_format(format: FormatName, tmp_path: Path) -> None:
    model, inputs = one_shot(Model(Places().eval()), Recipe(0.5)), (torch.randn(1, 3, 40, 37),)
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    assert verify(path, model, inputs).passed
