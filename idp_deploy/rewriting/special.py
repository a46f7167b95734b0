"""Functions that no format has, by series that hold in float32: the logarithm of the gamma function and its slope."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.polynomials import POLYNOMIALS
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten

_FAR = 4.0  # from where on four terms of a series are exact in float32

_MIDDLE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_ENDS = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


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


def erfinv(x: Tensor) -> Tensor | None:
    """The inverse of the error function: a polynomial in −log(1 − x²), near the ends in its root (M. Giles, 2010)."""
    if not x.is_floating_point():
        return None
    far = -torch.log((1 - x) * (1 + x))
    ends = far >= 5
    middle, outer = far - 2.5, torch.sqrt(torch.where(ends, far, torch.full_like(far, 9.0))) - 3
    return torch.where(ends, _polynomial(outer, _ENDS), _polynomial(middle, _MIDDLE)) * x


def _polynomial(x: Tensor, factors: tuple[float, ...]) -> Tensor:
    total: Any = factors[0]
    for factor in factors[1:]:
        total = total * x + factor
    assert isinstance(total, Tensor)
    return total


SPECIAL: dict[Any, Row] = {
    aten.digamma.default: digamma,
    aten.special_digamma.default: digamma,
    aten.special_psi.default: digamma,
    aten.erfinv.default: erfinv,
    aten.lgamma.default: lgamma,
    aten.special_erfinv.default: erfinv,
    aten.special_gammaln.default: lgamma,
    **POLYNOMIALS,
}
