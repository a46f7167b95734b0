"""repeats: as many copies of each entry as a tensor says, and how often each number occurs, by comparisons."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.rewriting.spelling import Row, replace

aten = torch.ops.aten
_MOST = 2**22  # comparisons: beyond, an operator that a format lacks is better refused


def places(repeats: Tensor, *, output_size: Any = None) -> Tensor | None:
    """Which entry stands at each of `output_size` places, the first one `repeats[0]` times and so on."""
    if output_size is None or repeats.dim() != 1 or repeats.shape[0] * output_size > _MOST:
        return None
    ends = repeats.to(torch.int32).cumsum(0, dtype=torch.int32)
    before = ends.unsqueeze(0) <= torch.arange(output_size, dtype=torch.int32).unsqueeze(1)
    return before.to(torch.int32).sum(1, dtype=torch.int32).clamp(max=repeats.shape[0] - 1).to(torch.int64)


def repeat_interleave(x: Tensor, repeats: Tensor, dim: int | None = None, *, output_size: Any = None) -> Tensor | None:
    """Entries along `dim`, each as often as its number says, where it is said how many that makes."""
    x = x.flatten() if dim is None else x
    dim = 0 if dim is None else dim % x.dim()
    spread = repeats.expand(x.shape[dim]) if repeats.numel() == 1 else repeats
    found = places(spread, output_size=output_size)
    return None if found is None else x.index_select(dim, found)


def bincount(size: int, x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor | None:
    """How often each number below `size` occurs, or the sum of its weights."""
    if x.shape[0] * size > _MOST:
        return None
    hit = x.to(torch.int32).unsqueeze(0) == torch.arange(size, dtype=torch.int32).unsqueeze(1)
    if weights is not None:
        return torch.where(hit, weights, torch.zeros_like(weights)).sum(1)
    return hit.to(torch.int32).sum(1, dtype=torch.int32).to(torch.int64)


def count_what_is_bounded(module: fx.GraphModule) -> None:
    """`bincount`, in place, where what follows takes as many numbers as there are: how many else the input tells."""
    for node in list(module.graph.nodes):
        size = node.meta["val"].shape[0] if node.target is aten.bincount.default else None
        size = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else size
        size = _asked(node) if size is None else size
        if size is not None:
            replace(module, node, partial(bincount, size))
    module.graph.eliminate_dead_code()
    module.recompile()


def _asked(node: fx.Node) -> int | None:
    """How many numbers follow a count whose users all take the first of those that there are at least."""
    least: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("minlength", 0)
    if node.target is not aten.bincount.default or not isinstance(least, int) or not node.users:
        return None
    for user in node.users:
        if user.target is aten.sym_size.int and _is_asserted(user):
            continue
        given: tuple[Any, ...] = user.args[1:]
        axis, start, end, step = given + (0, 0, 2**63 - 1, 1)[len(given) :]
        if user.target is not aten.slice.Tensor or axis != 0 or (start, step) not in ((0, 1), (None, 1)):
            return None
        if not isinstance(end, int) or not 0 <= end <= least:
            return None
    return least


def _is_asserted(size: fx.Node) -> bool:
    """Whether a trace asks for a size for nothing but what it asserts of it."""
    return all(check.target is aten._assert_scalar.default for test in size.users for check in test.users)


REPEATS: dict[Any, Row] = {
    aten.repeat_interleave.self_Tensor: repeat_interleave,
    aten.repeat_interleave.Tensor: places,
}
