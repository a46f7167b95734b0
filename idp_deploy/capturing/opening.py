"""A batch that stays free where torch makes a plain number of it, and the line that fixes it where none can."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode

_TORCH = str(Path(torch.__file__).parent)
_OURS = ("idp_deploy", "contextlib", "opt_einsum", "sympy")  # no lines of forward
_OTHERS = (1, 3, 7, 50, 100_000)  # batches that a program for any holds for, beside the example's


@contextmanager
def sizes_left_open() -> Iterator[list[str]]:
    """Inside, what takes sizes for numbers alone is spelled out; gives the lines that fixed one nonetheless.

    A line is said as "net.py:12": the last one outside of torch.
    """
    found: list[str] = []
    before: Any = getattr(ShapeEnv, "_log_guard", None)

    def noticed(env: Any, prefix: Any, guard: Any, *more: Any, **named: Any) -> None:
        before(env, prefix, guard, *more, **named)
        if _fixes(guard):
            found.extend(_line())

    if before is not None:
        ShapeEnv._log_guard = noticed  # type: ignore[method-assign,assignment]
    try:
        with _Spelled():
            yield found
    finally:
        if before is not None:
            ShapeEnv._log_guard = before  # type: ignore[method-assign]


def _fixes(guard: Any) -> bool:
    """Whether a condition on sizes holds for some batches alone."""
    symbols = getattr(guard, "free_symbols", ())
    return any(not guard.subs(dict.fromkeys(symbols, batch)) for batch in _OTHERS) if symbols else False


def _line() -> Iterator[str]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        file, room = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
        if not file.startswith((_TORCH, "<")) and room.partition(".")[0] not in _OURS:
            yield f"{Path(file).name}:{frame.f_lineno}"
            return
        frame = frame.f_back


class _Spelled(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        spell, kwargs = _SPELLINGS.get(func), kwargs or {}
        found = spell(*args, **kwargs) if spell is not None else None
        return func(*args, **kwargs) if found is None else found


def _linspace(start: Any, end: Any, steps: Any = None, **how: Any) -> Tensor | None:
    if not isinstance(steps, SymInt) or isinstance(start, Tensor) or isinstance(end, Tensor) or "out" in how:
        return None
    free: Any = steps
    places = torch.arange(free, device=how.get("device"))
    last = places[-1:]  # a tensor: a batch of one has no step
    step = (end - start) / last.clamp(min=1)
    spread = torch.where(2 * places < last, start + step * places, end - step * (last - places))
    spread = torch.where(last > 0, spread, start)
    return spread.to(how.get("dtype") or torch.get_default_dtype())


def _kron(x: Tensor, y: Tensor) -> Tensor | None:
    if x.dim() != y.dim() or not any(isinstance(extent, SymInt) for extent in (*x.shape, *y.shape)):
        return None
    for axis in range(x.dim()):
        x, y = x.unsqueeze(2 * axis + 1), y.unsqueeze(2 * axis)
    return (x * y).reshape([x.shape[2 * i] * y.shape[2 * i + 1] for i in range(x.dim() // 2)])


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...] | None:
    extent = x.shape[dim] if isinstance(dim, int) and isinstance(chunks, int) and x.dim() else None
    if not isinstance(extent, SymInt) or (extent % chunks).node.expr != 0:
        return None
    return tuple(x.narrow(dim, i * (extent // chunks), extent // chunks) for i in range(chunks))


def _cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor | None:
    """Without its choice by how many there are."""
    direct = "donot_use_mm_for_euclid_dist"
    if compute_mode == direct or not any(isinstance(t.shape[-2], SymInt) for t in (x, y)):
        return None
    return torch.cdist(x, y, p, direct)


def _einsum(equation: Any, *operands: Any) -> Any:
    """Of more than two, in the order that is best for the example: torch asks its helper, which takes numbers alone."""
    sums = torch.backends.opt_einsum
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if not isinstance(equation, str) or len(given) < 3 or not (sums.is_available() and sums.enabled):
        return None
    if not any(isinstance(extent, SymInt) for x in given for extent in x.shape):
        return None
    shapes = [[e.node.hint if isinstance(e, SymInt) else e for e in x.shape] for x in given]
    path = sums.get_opt_einsum().contract_path(equation, *shapes, shapes=True, optimize=sums.strategy or "auto")[0]
    return torch._VF.einsum(equation, tuple(given), path=[place for pair in path for place in pair])  # type: ignore[attr-defined]


def _isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor | None:
    """By comparisons alone: of many torch sorts both."""
    if not isinstance(elements, Tensor) or not any(isinstance(extent, SymInt) for extent in elements.shape):
        return None
    among = test_elements if isinstance(test_elements, Tensor) else torch.tensor(test_elements)
    found = (elements.unsqueeze(-1) == among.flatten()).any(-1)
    return ~found if invert else found


_SPELLINGS: dict[Any, Callable[..., Any]] = {
    torch.linspace: _linspace,
    torch.kron: _kron,
    Tensor.kron: _kron,
    torch.chunk: _chunk,
    Tensor.chunk: _chunk,
    torch.cdist: _cdist,
    torch.einsum: _einsum,
    torch.isin: _isin,
}
