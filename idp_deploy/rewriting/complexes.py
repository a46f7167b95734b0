"""complexes: complex numbers as pairs of real ones on a last axis, for formats that have none.

In a captured graph every complex value (…) becomes a real one (…, 2), as torch.view_as_real gives it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from idp_deploy.capturing.lifting import attribute
from idp_deploy.errors import ConversionError
from idp_deploy.rewriting.pairs import ROWS, Pair, Row, paired
from idp_deploy.rewriting.spelling import replace
from idp_deploy.rewriting.transforms import TRANSFORMS

aten = torch.ops.aten


def refuse_complex_ends(module: fx.GraphModule) -> None:
    """ConversionError where the model takes or returns complex numbers."""
    for node in module.graph.nodes:
        ends = [node] if node.op == "placeholder" else node.all_input_nodes if node.op == "output" else []
        if any(map(_is_complex, ends)):
            raise _at_an_end(node)


def has_complex(module: fx.GraphModule) -> bool:
    """Whether complex numbers are in it."""
    return any(map(_is_complex, module.graph.nodes))


def _at_an_end(node: fx.Node) -> ConversionError:
    return ConversionError(
        f"the model {'takes' if node.op == 'placeholder' else 'returns'} complex numbers, and files hold real ones",
        way_out="take and return torch.view_as_real(x)",
    )


def without_complex(module: fx.GraphModule, *, only_with: Collection[Any] = ()) -> None:
    """Rewrite a graph, in place, in real numbers; the numbers stay the same. Nothing happens where all are real.

    Args:
        only_with: operators on complex numbers of which one must be there; none, to rewrite whatever there is.

    Raises:
        ConversionError: an operator on complex numbers that stands in no row here, or complex inputs or outputs.
    """
    if only_with and not any(_on_complex(node) and _operator(node) in only_with for node in module.graph.nodes):
        return
    pairs: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        on_pairs = _is_complex(node) or not pairs.isdisjoint(node.all_input_nodes)
        if node.op == "get_attr":
            tensor = attribute(module, str(node.target))
            if isinstance(tensor, Tensor) and tensor.is_complex():
                pairs.add(_held_as_real(module, node, tensor))
        elif on_pairs and node.op in ("placeholder", "output"):
            raise _at_an_end(node)
        elif on_pairs or _operator(node) in TRANSFORMS:
            if _operator(node) not in _ROWS and _operator(node) not in _IN_PLACE:
                raise _unknown(node)
            gives = _is_complex(node)
            made = replace(module, node, _on_pairs(node, pairs))
            if made is None:
                raise _unknown(node)
            if gives:
                pairs.add(made)
    module.graph.eliminate_dead_code()
    _drop_complex(module)
    module.recompile()


def _drop_complex(module: fx.GraphModule) -> None:
    """Parameters and buffers that the graph reads as pairs now: litert-torch lowers those that nothing reads too."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_complex():
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)


def _operator(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _on_complex(node: fx.Node) -> bool:
    return any(map(_is_complex, (node, *node.all_input_nodes)))


def _is_complex(node: fx.Node) -> bool:
    return any(isinstance(v, Tensor) and v.is_complex() for v in pytree.tree_leaves(node.meta.get("val")))


def _held_as_real(module: fx.GraphModule, node: fx.Node, tensor: Tensor) -> fx.Node:
    name = f"{node.name}_as_real"
    module.register_buffer(name, torch.view_as_real(tensor.detach().resolve_conj()).contiguous())
    with module.graph.inserting_before(node):
        real = module.graph.get_attr(name)
    real.meta = {**node.meta, **({"val": torch.view_as_real(node.meta["val"])} if "val" in node.meta else {})}
    node.replace_all_uses_with(real)
    return real


def _on_pairs(node: fx.Node, pairs: Collection[fx.Node]) -> Row:
    """The row of a call, for arguments of which those from `pairs` come as real tensors."""
    in_place = _operator(node) in _IN_PLACE
    row = (_IN_PLACE if in_place else _ROWS)[_operator(node)]
    where = [isinstance(leaf, fx.Node) and leaf in pairs for leaf in pytree.tree_leaves((node.args, node.kwargs))]
    if in_place:
        where[0] = False

    def computed(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        leaves = [Pair(x[..., 0], x[..., 1]) if pair else x for x, pair in zip(leaves, where, strict=True)]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        result = row(*args, **kwargs)
        return result.real_pair if isinstance(result, Pair) else result

    return computed


def _unknown(node: fx.Node) -> ConversionError:
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return ConversionError(
        f"{node.target} on complex numbers in {f'module {stack[-1]!r}' if stack else 'the model itself'} cannot be "
        "said in real ones",
        way_out="write it with real and imaginary parts (torch.view_as_real)",
    )


def _slice(x: Tensor, dim: int = 0, *bounds: Any) -> Tensor:
    return aten.slice.Tensor(x, dim if dim >= 0 else dim - 1, *bounds)  # type: ignore[no-any-return]


_ROWS = {**ROWS, **TRANSFORMS}
_IN_PLACE: dict[Any, Row] = {  # on a pair as it lies: what is written to a part of it is in the whole
    aten.slice: _slice,
    aten.select: lambda x, dim, index: x.select(dim if dim >= 0 else dim - 1, index),
    aten.copy_: lambda x, y, *_: x.copy_(paired(y).real_pair),
}
