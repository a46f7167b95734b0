"""narrow: arithmetic of integers of one or two bytes, which runtimes have for larger ones alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from idp_deploy.rewriting.spelling import Row, replace

_NARROW = (torch.int8, torch.uint8, torch.int16)
_COPIES = ("clone", "to", "_to_copy", "copy", "fill", "alias", "detach")
# beside what is computed entry by entry
_COMPUTED = {
    "amax", "amin", "aminmax", "argmax", "argmin", "argsort", "constant_pad_nd", "cummax", "cummin", "cumprod",
    "cumsum", "floor_divide", "max", "mean", "median", "min", "mode", "msort", "pad", "prod", "sort", "sum", "topk",
    "where", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__",
}  # fmt: skip


def widen(module: fx.GraphModule) -> None:
    """Compute with int32 in place of int8, uint8 and int16, in place; results have their own types again.

    What does not fit wraps around there, as it does in torch: −1 of a uint8 is 255.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and _computes(node.target) and any(map(_is_narrow, node.all_input_nodes)):
            replace(module, node, _in_four_bytes(node))
    module.graph.lint()
    module.recompile()


def _computes(target: Any) -> bool:
    name = getattr(target, "_opname", "")
    return name in _COMPUTED or (torch.Tag.pointwise in getattr(target, "tags", ()) and name not in _COPIES)


def _is_narrow(node: fx.Node) -> bool:
    return getattr(node.meta.get("val"), "dtype", None) in _NARROW


def _in_four_bytes(node: fx.Node) -> Row:
    kinds = [value.dtype for value in pytree.tree_leaves(node.meta["val"])]

    def row(*args: Any, **kwargs: Any) -> Any:
        wide = lambda x: x.to(torch.int32) if x.dtype in _NARROW else x  # noqa: E731
        args, kwargs = pytree.tree_map_only(Tensor, wide, (args, kwargs))
        found, spec = pytree.tree_flatten(node.target(*args, **kwargs))  # type: ignore[operator]
        own = [y if y.dtype == kind else y.to(kind) for y, kind in zip(found, kinds, strict=True)]
        return pytree.tree_unflatten(own, spec)

    return row
