"""batches: convolutions and pools of one image by itself, which torch takes and converters do not, as a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def _as_batch(operator: Any, rank: int) -> Row:
    def row(x: Tensor, *arguments: Any, **how: Any) -> Any:
        if x.dim() != rank - 1:
            return None
        return pytree.tree_map(lambda each: each.squeeze(0), operator(x.unsqueeze(0), *arguments, **how))

    return row


def _operators() -> Iterator[tuple[Any, int]]:
    for axes in (1, 2, 3):
        for name in ("conv{}d", "max_pool{}d", "avg_pool{}d", "adaptive_avg_pool{}d", "adaptive_max_pool{}d"):
            yield getattr(aten, name.format(axes)).default, axes + 2
        yield getattr(aten, f"conv{axes}d").padding, axes + 2
        transposed = getattr(aten, f"conv_transpose{axes}d")
        yield getattr(transposed, "default" if axes == 1 else "input"), axes + 2
        yield getattr(aten, f"max_pool{axes}d_with_indices").default, axes + 2


UNBATCHED: dict[Any, Row] = {operator: _as_batch(operator, rank) for operator, rank in _operators()}
