"""constants: what forward computes from numbers and buffers alone, computed before a converter does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from idp_deploy.capturing.functional import written_operands
from idp_deploy.capturing.lifting import attribute
from idp_deploy.rewriting.spelling import replace


@torch.no_grad()
def fold_constants(module: fx.GraphModule) -> None:
    """Replace, in place, results that depend on neither inputs nor parameters by buffers.

    coremltools makes a mask of −∞ above the diagonal by a product with zeros, which is not a number, and lacks some of
    the operators that masks and positions are made by. It cannot compute with single numbers that are known either:
    those that come of vectors among the parameters are replaced as well.
    """
    known, written = _evaluate(module)
    wider, also_written = _evaluate(module, vectors=True)
    written |= also_written
    known |= {
        node: value
        for node, value in wider.items()
        if node.op == "call_function" and isinstance(value, Tensor) and not value.dim()
    }
    _choose_by_places(module, known)
    for node in list(module.graph.nodes):
        value = known.get(node)
        if not isinstance(value, Tensor) or node.op != "call_function" or _storage(value) in written:
            continue
        if any(user not in known for user in node.users):
            name = f"constant_{node.name}"
            module.register_buffer(name, value.contiguous().clone())
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
            node.replace_all_uses_with(constant, lambda user: user not in known)
    for node in reversed(module.graph.nodes):  # also writes in place and claims, which no elimination takes out
        value = known.get(node)
        if node in known and not node.users and not (isinstance(value, Tensor) and _storage(value) in written):
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _choose_by_places(module: fx.GraphModule, known: dict[fx.Node, Any]) -> None:
    """What a constant mask chooses, as in `x[:, mask]`, by its places: a file then knows how many they are."""
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.aten.index.Tensor or node in known:
            continue
        given = [known.get(index) for index in node.args[1]]
        places = [v.nonzero(as_tuple=True) if v is not None and v.dtype == torch.bool else () for v in given]
        if any(places):
            replace(module, node, partial(_chosen, places))


def _chosen(places: Sequence[tuple[Tensor, ...]], x: Tensor, given: Sequence[Tensor | None]) -> Tensor:
    indices = [part for own, index in zip(places, given, strict=True) for part in own or (index,)]
    return torch.ops.aten.index.Tensor(x, indices)


def _evaluate(module: fx.GraphModule, *, vectors: bool = False) -> tuple[dict[fx.Node, Any], set[int]]:
    """The value of every node that is constant, and the memory that such a value shares with one that is none.

    With `vectors`, parameters of one dimension at most are constants too.

    That is memory which an operator writes to in place with something that is not constant, or after something that
    is not has read it. What is read of it from then on is no constant.
    """
    known: dict[fx.Node, Any] = {}
    read: set[int] = set()
    written: set[int] = set()
    for node in module.graph.nodes:
        sources = [known[source] for source in node.all_input_nodes if source in known]
        memory = {_storage(x) for x in pytree.tree_leaves(sources) if isinstance(x, Tensor)}
        into = [known[operand] for operand in written_operands(node) if operand in known]
        target = {_storage(x) for x in into if isinstance(x, Tensor)}
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, Tensor) and (not isinstance(value, nn.Parameter) or (vectors and value.dim() < 2)):
                known[node] = value.clone()
        elif node.op == "call_function" and len(sources) == len(node.all_input_nodes) and not memory & written:
            written |= target & read
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
        else:
            written |= target
            read |= memory - target
    return known, written


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
