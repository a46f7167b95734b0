"""What weights and constants alone tell, computed once, in place: no format has operators for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from idp_deploy.capturing.functional import written_operands
from idp_deploy.capturing.lifting import attribute

_ALGEBRA = {
    "inverse", "cholesky", "cholesky_inverse", "cholesky_solve", "matrix_exp", "det", "logdet", "slogdet", "qr",
    "pinverse",
}  # fmt: skip
_WINDOWS = ("bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window")
_NORMS = ("linalg_vector_norm", "linalg_norm", "linalg_cross", "linalg_matrix_norm")


@torch.no_grad()
def solve(module: fx.GraphModule) -> None:
    """Linear algebra on weights alone, an inverse say, and windows, computed once, in place: formats lack operators."""
    for node in list(module.graph.nodes):
        name = getattr(node.target, "_opname", "").removeprefix("_")
        if node.op != "call_function" or not _is_algebra(name) or (value := of_weights(module, node)) is None:
            continue
        for user in [node] if isinstance(value, torch.Tensor) else list(node.users):
            part = value if user is node else value[user.args[1]]
            module.register_buffer(f"solved_{user.name}", part.detach().contiguous().clone())
            with module.graph.inserting_before(node):
                solved = module.graph.get_attr(f"solved_{user.name}")
            solved.meta = dict(user.meta)
            user.replace_all_uses_with(solved)
    module.graph.eliminate_dead_code()


def _is_algebra(name: str) -> bool:
    if name.startswith(_NORMS):  # those are sums
        return False
    return name in _ALGEBRA or name.startswith(("linalg_", *_WINDOWS))


def of_weights(module: fx.GraphModule, node: fx.Node) -> Any:
    """What a node computes from weights and constants alone; None where an input has a part in it."""
    behind, waiting = {node}, [node]
    while waiting:
        source = waiting.pop()
        if source.op not in ("get_attr", "call_function") or any(True for _ in written_operands(source)):
            return None
        waiting += (fresh := set(source.all_input_nodes) - behind)
        behind |= fresh
    known: dict[fx.Node, Any] = {}
    for source in module.graph.nodes:
        if source in behind:
            args, kwargs = fx.node.map_arg((source.args, source.kwargs), known.__getitem__)
            known[source] = (
                attribute(module, str(source.target)) if source.op == "get_attr" else source.target(*args, **kwargs)
            )
    return known[node]
