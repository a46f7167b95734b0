"""norms: batch norms that no layer took in, as one product and one sum; the converter makes four operators of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.capturing.lifting import attribute

aten = torch.ops.aten


@torch.no_grad()
def say_as_factors(module: fx.GraphModule) -> None:
    """γ(x − μ)/√(σ² + ε) + β as x·a + b, in place, where all of them are constants; x (N, C, …), a and b (C, 1, …)."""
    for node in list(module.graph.nodes):
        if node.target is not aten.batch_norm.default:
            continue
        arguments: tuple[Any, ...] = node.args
        x, *held, training, _, eps = arguments[:8]
        if training or any(isinstance(each, fx.Node) and each.op != "get_attr" for each in held):
            continue  # of the batch, or computed by forward
        gamma, beta, mean, variance = (
            None if each is None else attribute(module, each.target).double() for each in held
        )
        assert mean is not None
        assert variance is not None
        factor = torch.rsqrt(variance + eps) * (1 if gamma is None else gamma)
        shift = -mean * factor + (0 if beta is None else beta)
        value = x.meta["val"]
        with module.graph.inserting_before(node):
            for name, target, constant in (("factor", aten.mul.Tensor, factor), ("shift", aten.add.Tensor, shift)):
                held_as = f"{node.name}_{name}"
                module.register_buffer(held_as, _a_channel(constant, value))
                x = module.graph.call_function(target, (x, module.graph.get_attr(held_as)))
                x.meta = dict(node.meta)
        node.replace_all_uses_with(x)
        module.graph.erase_node(node)
    module.recompile()


def _a_channel(constant: Tensor, x: Tensor) -> Tensor:
    """(C,) in the shape that meets axis 1 of `x`."""
    return constant.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))
