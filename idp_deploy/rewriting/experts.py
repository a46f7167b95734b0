"""experts: rows sorted by the matrix that each meets, and the counts they are sorted by, said without a loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 2**22  # comparisons: beyond, an operator that a format lacks is better refused


def grouped(x: Tensor, matrices: Tensor, ends: Tensor | None = None, bias: Any = None, kind: Any = None) -> Any:
    """Rows up to the first end times the first matrix, those up to the second times the second, and so on.

    (rows, a), (experts, a, b), (experts,) → (rows, b). Every row meets every matrix here, and the products that were
    not asked for are left out of the sum: rows behind the last end give zeros.
    """
    if x.dim() != 2 or matrices.dim() != 3 or ends is None or bias is not None or kind not in (None, x.dtype):
        return None
    places = (torch.ones_like(x[:, 0], dtype=ends.dtype).cumsum(0, dtype=ends.dtype) - 1).reshape(1, -1, 1)
    starts = torch.cat([torch.zeros(1, dtype=ends.dtype), ends[:-1]])
    meets = torch.logical_and(places >= starts.reshape(-1, 1, 1), places < ends.reshape(-1, 1, 1))
    products = torch.matmul(x.unsqueeze(0), matrices)
    return torch.where(meets, products, torch.zeros_like(products)).sum(0)


def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor | None:
    """How many entries lie in each of `bins` equal parts of [min, max]; the last one has its end, the others not.

    Between the smallest and the largest entry where both ends are one, as they are unless given.
    """
    if min > max or not x.is_floating_point() or x.numel() * bins > _MOST:
        return None
    x = x.flatten()
    low: Any = min
    high: Any = max
    if min == max:
        least, most = x.min(), x.max()
        alike = torch.eq(least, most).to(x.dtype)
        low, high = least - alike, most + alike
    part = torch.clamp(torch.floor((x - low) * bins / (high - low)), max=bins - 1)
    inside = torch.logical_and(x >= low, x <= high)
    found = torch.logical_and(part.unsqueeze(1) == torch.arange(bins, dtype=x.dtype), inside.unsqueeze(1))
    return found.to(x.dtype).sum(0)


def histogram(
    x: Tensor, bins: int, *, range: list[float] | None = None, weight: Tensor | None = None, density: bool = False
) -> tuple[Tensor, Tensor] | None:
    """(`histc` of given ends, the ends of its parts)."""
    if range is None or weight is not None or density or (found := histc(x, bins, *range)) is None:
        return None
    return found, torch.linspace(range[0], range[1], bins + 1, dtype=x.dtype)


EXPERTS: dict[Any, Row] = {
    aten._grouped_mm.default: grouped,
    "transformers.grouped_mm_fallback.default": grouped,  # an operator of that library, known once it is imported
    aten.histc.default: histc,
    aten.histogram.bin_ct: histogram,
}
