"""Attention of a query that may attend to nothing: torch gives zeros, and formats the mean of all values, or NaN.

Here such a query attends to all, and what it gets is then put to zero, so that no format divides by a sum of none.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from idp_deploy.capturing.known import of_weights

aten = torch.ops.aten
_SHAPED = (aten.view, aten.reshape, aten.expand, aten.unsqueeze, aten.squeeze, aten.permute, aten.transpose, aten.clone)


def attend_to_nothing(module: fx.GraphModule) -> None:
    """Write it out, in place, for every mask that an input tells, and for constant ones with such a row."""
    open_to: dict[fx.Node, tuple[fx.Node, fx.Node] | None] = {}
    for node in list(module.graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        if not isinstance(mask, fx.Node):
            continue
        if mask not in open_to:
            open_to[mask] = _opened(module, mask)
        if (found := open_to[mask]) is None:
            continue
        opened, hidden = found
        node.replace_input_with(mask, opened)
        with module.graph.inserting_after(node):
            zeroed = module.graph.call_function(aten.masked_fill.Scalar, (node, hidden, 0.0))
        zeroed.meta = dict(node.meta)
        node.replace_all_uses_with(zeroed, lambda user, zeroed=zeroed: user is not zeroed)


def _opened(module: fx.GraphModule, mask: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """(the mask with rows that hide everything open to all, whether a row was one of these); None where none can be."""
    known = of_weights(module, mask)
    if known is not None and bool((known if known.dtype == torch.bool else known > -math.inf).any(-1).all()):
        return None
    truths = mask.meta["val"].dtype == torch.bool
    seen = _seen(mask, {})
    some = _call(seen, aten.any.dim, seen, -1, True)
    hidden = _call(some, aten.logical_not.default, some)
    if truths:
        return _call(hidden, aten.logical_or.default, mask, hidden), hidden
    return _call(hidden, aten.masked_fill.Scalar, mask, hidden, 0.0), hidden


def _seen(mask: Any, known: dict[fx.Node, fx.Node]) -> fx.Node:
    """What a mask shows; of a sum what both do, for kernels that stay within float32 make no infinity of two."""
    if mask not in known:
        if mask.meta["val"].dtype == torch.bool:
            known[mask] = mask
        elif mask.target is aten.add.Tensor and not mask.kwargs and all(isinstance(x, fx.Node) for x in mask.args):
            one, other = (_seen(part, known) for part in mask.args)
            known[mask] = _call(mask, aten.logical_and.default, one, other)
        elif getattr(mask.target, "overloadpacket", None) in _SHAPED and not mask.kwargs:
            known[mask] = _call(mask, mask.target, _seen(mask.args[0], known), *mask.args[1:])
        else:
            known[mask] = _call(mask, aten.ne.Scalar, mask, -math.inf)
    return known[mask]


def _call(after: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A call behind `after`, which says what it gives."""
    with after.graph.inserting_after(after):
        made = after.graph.call_function(target, args)
    values = fx.node.map_arg(args, lambda node: node.meta["val"])
    made.meta = {key: after.meta[key] for key in ("nn_module_stack", "stack_trace") if key in after.meta}
    with values[0].fake_mode if isinstance(values[0], FakeTensor) else nullcontext():
        made.meta["val"] = target(*values)
    return made
