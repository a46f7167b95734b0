"""Numbers that stand for "as far as can be", kept within float16: as infinities they are NaN once they meet a zero."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.capturing.lifting import attribute

aten = torch.ops.aten
_LARGEST = 65504.0
_FACTOR = 1e8  # a smaller one that something is multiplied by may be meant as it is, and then float16 is too narrow
_FAR = 3e4  # two of them add up within float16, and e to the power of minus this is zero there
_MEANT = {
    aten.add, aten.sub, aten.rsub, aten.mul, aten.masked_fill, aten.where, aten.full, aten.full_like, aten.new_full,
    aten.masked_fill_, aten.fill, aten.fill_, aten.scalar_tensor,
}  # fmt: skip
_SAME = {aten.detach, aten.detach_, aten.alias, aten.lift_fresh, aten.lift_fresh_copy, aten.clone, aten.to, aten.view}


def hold_far_numbers(module: fx.GraphModule) -> None:
    """Bring finite numbers beyond float16 in, in place: masks are (1 - kept) · -3.4e38, or filled with -1e9.

    A row that hides everything then is a row of equals, as in float32.
    """
    for node in module.graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _MEANT:
            bound = _FACTOR if packet is aten.mul else _LARGEST
            node.args = tuple(
                _constant_held(module, node, value, bound) if isinstance(value, fx.Node) else _held(value, bound)
                for value in node.args
            )
        elif packet is aten.nan_to_num:
            _hold_infinite(node)
    module.recompile()


def _held(value: Any, bound: float) -> Any:
    beyond = isinstance(value, float) and math.isfinite(value) and abs(value) > bound
    return math.copysign(_FAR, value) if beyond else value


def _constant_held(module: fx.GraphModule, user: fx.Node, value: fx.Node, bound: float) -> fx.Node:
    """The same of a constant that forward makes of one number, `torch.tensor(torch.finfo().min)`."""
    source = value
    while getattr(source.target, "overloadpacket", None) in _SAME and isinstance(source.args[0], fx.Node):
        source = source.args[0]
    number = attribute(module, str(source.target)) if source.op == "get_attr" else None
    made = value.meta["val"]
    if not isinstance(number, Tensor) or number.numel() != 1 or not made.is_floating_point():
        return value
    held = _held(given := number.item(), bound)
    if held is given:
        return value
    name = f"held_{user.name}_{value.name}"
    module.register_buffer(name, torch.full(made.shape, held, dtype=made.dtype))
    with module.graph.inserting_before(user):
        constant = module.graph.get_attr(name)
    constant.meta = dict(value.meta)
    return constant


def _hold_infinite(node: fx.Node) -> None:
    """What infinities become where nothing is said, or something beyond float16: its own largest, as torch has it."""
    given: dict[str, Any] = dict(zip(("nan", "posinf", "neginf"), node.args[1:], strict=False)) | node.kwargs
    most = _LARGEST if given.get("posinf") is None else min(given["posinf"], _LARGEST)
    least = -_LARGEST if given.get("neginf") is None else max(given["neginf"], -_LARGEST)
    node.args, node.kwargs = (node.args[0], given.get("nan"), most, least), {}
