"""Roots that converters give otherwise for some numbers: √(x²) as x, and 1/√0 as a million or as no number."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from idp_deploy.rewriting.spelling import replace

aten = torch.ops.aten
_SUMS = {aten.add.Tensor, aten.add.Scalar, aten.clamp_min.default, aten.clamp.default}


def square_by_products(module: fx.GraphModule) -> None:
    """x² beside a root as x·x, in place: coremltools takes √(x²) for x, whatever its sign."""
    for node in module.graph.nodes:
        if node.target is not aten.pow.Tensor_Scalar or node.args[1] != 2:
            continue
        if any(near.target is aten.sqrt.default for near in (*node.users, *node.all_input_nodes)):
            node.target, node.args = aten.mul.Tensor, (node.args[0], node.args[0])


def divide_by_roots(module: fx.GraphModule) -> None:
    """1/√x in two steps, in place, unless a norm's little number keeps x from 0.

    There Core ML's operator is finite, and XNNPACK's no number. Graph networks look for that infinity: nodes without
    neighbours get 0 for it.
    """
    for node in list(module.graph.nodes):
        if node.target is aten.rsqrt.default and not _is_kept_from_zero(node.args[0]):
            replace(module, node, _over_root)


def _is_kept_from_zero(node: fx.Node) -> bool:
    least = node.args[1] if node.target in _SUMS and len(node.args) > 1 else node.kwargs.get("min")
    return isinstance(least, int | float) and least > 0


def _over_root(x: Tensor) -> Tensor:
    root = torch.sqrt(x if x.dim() else x.unsqueeze(0))
    found = torch.div(torch.ones([1] * root.dim()), root)
    return found if x.dim() else found.squeeze(0)
