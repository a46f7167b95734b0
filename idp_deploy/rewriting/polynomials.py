"""polynomials: orthogonal ones of a fixed degree, by the recurrence of three terms that PyTorch computes them by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 64  # terms
Step = Callable[[Tensor, int, Tensor, Tensor], Tensor]  # (x, k, the one of degree k, the one before it) → of k + 1


def _recurring(first: Callable[[Tensor], Tensor], step: Step) -> Row:
    def row(x: Tensor, degree: Any) -> Tensor | None:
        if not x.is_floating_point() or not isinstance(degree, int | float) or degree > _MOST:
            return None
        degree = int(degree)
        if degree < 1:
            return torch.zeros_like(x) if degree else torch.ones_like(x)
        before, now = torch.ones_like(x), first(x)
        for k in range(1, degree):
            before, now = now, step(x, k, now, before)
        return now

    return row


def _chebyshev(x: Tensor, k: int, now: Tensor, before: Tensor) -> Tensor:
    return 2 * x * now - before


_FAMILIES: dict[str, Row] = {
    "chebyshev_polynomial_t": _recurring(lambda x: x, _chebyshev),
    "chebyshev_polynomial_u": _recurring(lambda x: 2 * x, _chebyshev),
    "chebyshev_polynomial_v": _recurring(lambda x: 2 * x - 1, _chebyshev),
    "chebyshev_polynomial_w": _recurring(lambda x: 2 * x + 1, _chebyshev),
    "hermite_polynomial_h": _recurring(lambda x: 2 * x, lambda x, k, now, before: 2 * (x * now - k * before)),
    "hermite_polynomial_he": _recurring(lambda x: x, lambda x, k, now, before: x * now - k * before),
    "laguerre_polynomial_l": _recurring(
        lambda x: 1 - x, lambda x, k, now, before: ((2 * k + 1 - x) * now - k * before) / (k + 1)
    ),
    "legendre_polynomial_p": _recurring(
        lambda x: x, lambda x, k, now, before: ((2 * k + 1) * x * now - k * before) / (k + 1)
    ),
}
POLYNOMIALS: dict[Any, Row] = {getattr(aten, f"special_{name}").n_scalar: row for name, row in _FAMILIES.items()}
