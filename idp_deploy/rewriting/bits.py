"""bits: and, or and exclusive or of integers, of which TFLite has the last and Core ML none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.elementwise import BITS_OF_TRUTH
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def low_bits(x: Tensor, mask: Any) -> Tensor | None:
    """`x & 2ⁿ − 1`: what is left of a division by 2ⁿ."""
    whole = isinstance(mask, int) and not isinstance(mask, bool) and 0 < mask < 2**31 - 1 and not mask & (mask + 1)
    if not whole or x.is_floating_point() or x.dtype == torch.bool:
        return None
    return torch.remainder(x, mask + 1)


def _both(x: Tensor, y: Any) -> tuple[Tensor, Tensor, torch.dtype] | None:
    kind = torch.result_type(x, y)
    if kind not in (torch.int32, torch.int64):
        return None
    y = y if isinstance(y, Tensor) else torch.full([1] * x.dim(), y, dtype=kind)
    return x.to(torch.int32), y.to(torch.int32), kind


def exclusive_or(x: Tensor, y: Any) -> Tensor | None:
    """x ^ y, in 32 bits."""
    if (both := _both(x, y)) is None or (both[2] == x.dtype == torch.int32 and isinstance(y, Tensor)):
        return None
    return torch.bitwise_xor(both[0], both[1]).to(both[2])


def _by_sums(sign: int) -> Row:
    """x & y as half of x + y less x ^ y, and x | y as half of that and more."""

    def row(x: Tensor, y: Any) -> Tensor | None:
        if (both := _both(x, y)) is None:
            return None
        other = torch.bitwise_xor(both[0], both[1]).to(torch.int64)
        total = both[0].to(torch.int64) + both[1].to(torch.int64) + sign * other
        return torch.div(total, 2, rounding_mode="trunc").to(both[2])

    return row


def _either(*rows: Row) -> Row:
    """The first that has something to say."""

    def row(*operands: Any) -> Any:
        return next((found for row in rows if (found := row(*operands)) is not None), None)

    return row


_NAMES = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}


def _rows(said: dict[str, Callable[..., Any]]) -> dict[Any, Row]:
    """Rows for both spellings of each operator, of a tensor and of a number, beside those of truth values."""
    table: dict[Any, Row] = {}
    for short, row in said.items():
        for packet in (getattr(aten, f"__{short}__"), getattr(aten, _NAMES[short])):
            for overload in (packet.Tensor, packet.Scalar):
                table[overload] = _either(BITS_OF_TRUTH[overload], row) if overload in BITS_OF_TRUTH else row
    return table


def _turned(x: Tensor) -> Tensor | None:
    """~x of an integer."""
    return -1 - x if x.dtype in (torch.int32, torch.int64) else None


_TURNED = {aten.bitwise_not.default: _either(BITS_OF_TRUTH[aten.bitwise_not.default], _turned)}
LOW_BITS: dict[Any, Row] = BITS_OF_TRUTH | _TURNED | _rows({"and": low_bits})
BITS: dict[Any, Row] = (
    BITS_OF_TRUTH | _TURNED | _rows({"and": _either(low_bits, _by_sums(-1)), "or": _by_sums(1), "xor": exclusive_or})
)
