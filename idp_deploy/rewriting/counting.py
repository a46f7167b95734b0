"""counting: operators on integers and truth values that coremltools gives as floats, said in integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def whole_clamp(x: Tensor, low: Any = None, high: Any = None) -> Tensor | None:
    """Integers held at one end, which coremltools makes floats of."""
    if x.is_floating_point() or (low is not None and high is not None):
        return None
    if low is not None:
        return torch.maximum(x, torch.tensor(low, dtype=x.dtype))
    return torch.minimum(x, torch.tensor(high, dtype=x.dtype))


def floored(x: Any, y: Any) -> Tensor | None:
    """x // y of integers in integers, which coremltools gives as floats."""
    if any(not isinstance(v, Tensor | int) or (isinstance(v, Tensor) and v.is_floating_point()) for v in (x, y)):
        return None
    return torch.floor_divide(x, y).to(torch.int32).to(torch.int64)


def whole_share(x: Any, y: Any, *, rounding_mode: str | None) -> Tensor | None:
    """x / y of integers, rounded, in integers alone."""
    if rounding_mode is None or (of_sizes := floored(abs(x), abs(y))) is None:
        return None
    return floored(x, y) if rounding_mode == "floor" else of_sizes * torch.sign(x) * _sign(y)


def _sign(y: Any) -> Any:
    return torch.sign(y) if isinstance(y, Tensor) else (y > 0) - (y < 0)


def counted(total: Callable[..., Tensor]) -> Row:
    """Sums of truth values in integers, which coremltools gives as floats."""

    def row(x: Tensor, *where: Any, **how: Any) -> Tensor | None:
        if x.dtype != torch.bool or how.get("dtype") not in (None, torch.int64):
            return None
        return total(x.to(torch.int32), *where, dtype=torch.int32).to(torch.int64)

    return row


def so_far(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor | None:
    """Sums up to each entry, of truth values in integers, and along an axis counted from the first."""
    axis = dim % max(1, x.dim())
    whole = counted(torch.cumsum)(x, axis, dtype=dtype)
    return torch.cumsum(x, axis, dtype=dtype) if whole is None and axis != dim else whole  # type: ignore[no-any-return]


def count_nonzero(x: Tensor, dim: list[int] | int | None = None) -> Tensor:
    """How many entries are none."""
    axes = list(range(x.dim())) if dim is None else dim
    return (x != 0).to(torch.int32).sum(axes, dtype=torch.int32).to(torch.int64)


WHOLE_NUMBERS: dict[Any, Row] = {
    aten.sum.default: counted(torch.sum),
    aten.sum.dim_IntList: counted(torch.sum),
    aten.cumsum.default: so_far,
    aten.count_nonzero.default: count_nonzero,
    aten.count_nonzero.dim_IntList: count_nonzero,
    aten.clamp.default: whole_clamp,
    aten.floor_divide.default: floored,
    aten.div.Tensor_mode: whole_share,
    aten.div.Scalar_mode: whole_share,
}
