"""constants: what forward computes from numbers and buffers alone, computed before a converter does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from idp_deploy.capturing import attribute


@torch.no_grad()
def fold_constants(module: fx.GraphModule) -> None:
    """Replace, in place, results that depend on neither inputs nor parameters by buffers.

    coremltools makes a mask of −∞ above the diagonal by a product with zeros, which is not a number, and lacks some of
    the operators that masks and positions are made by. Graphs that write to tensors in place are left as they are.
    """
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    if any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in calls):
        return
    known: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                known[node] = value
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for node in calls:
        if isinstance(known.get(node), Tensor) and any(user not in known for user in node.users):
            name = f"constant_{node.name}"
            module.register_buffer(name, known[node].contiguous().clone())
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
            node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()
    module.recompile()
