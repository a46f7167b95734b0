"""Functions that no format has, by series that hold in float32: the logarithm of the gamma function and its slope."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten

_FAR = 4.0  # from where on four terms of a series are exact in float32


def _moved(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(whether it is mirrored at ½, the mirrored x, whether that is near 0, and what is far from it by four steps)."""
    low = x < 0.5
    y = torch.where(low, 1 - x, x)
    near = y < _FAR
    return low, y, near, torch.where(near, y + _FAR, y)


def lgamma(x: Tensor) -> Tensor | None:
    """log |Γ(x)|: Stirling's series from 4 on, Γ(x + 1) = x·Γ(x) up to there, Γ(x)·Γ(1 − x) = π / sin πx below ½."""
    if not x.is_floating_point():
        return None
    low, y, near, z = _moved(x)
    r = torch.reciprocal(z)
    s = r * r
    series = r * (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s / 1680)))
    stirling = (z - 0.5) * torch.log(z) - z + math.log(2 * math.pi) / 2 + series
    steps = torch.where(near, y, torch.ones_like(y))  # no product beyond what is used
    passed = torch.log(steps * (steps + 3)) + torch.log((steps + 1) * (steps + 2))
    above = torch.where(near, stirling - passed, stirling)
    return torch.where(low, math.log(math.pi) - torch.log(torch.abs(torch.sin(math.pi * x))) - above, above)


def digamma(x: Tensor) -> Tensor | None:
    """The slope of the former, by the slopes of the same three rules."""
    if not x.is_floating_point():
        return None
    low, y, near, z = _moved(x)
    r = torch.reciprocal(z)
    s = r * r
    series = torch.log(z) - r / 2 - s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s / 240)))
    passed = sum((torch.reciprocal(y + step) for step in range(1, int(_FAR))), torch.reciprocal(y))
    above = torch.where(near, series - passed, series)
    return torch.where(low, above - math.pi * torch.cos(math.pi * x) / torch.sin(math.pi * x), above)


SPECIAL: dict[Any, Row] = {
    aten.digamma.default: digamma,
    aten.special_digamma.default: digamma,
    aten.special_psi.default: digamma,
    aten.lgamma.default: lgamma,
    aten.special_gammaln.default: lgamma,
}
