"""What a forward returns besides tensors: dataclasses that torch does not know, and None."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree


def know_structures(returned: Any) -> bool:
    """Tell torch how to take apart the dataclasses in what a forward returned; whether there were any it knew not."""
    unknown = {type(leaf) for leaf in _pytree.tree_leaves(returned) if is_dataclass(leaf)}
    for kind in unknown:
        torch.export.register_dataclass(kind)
    if unknown:
        know_structures(returned)  # those inside
    return bool(unknown)


def leave_out_nones(module: fx.GraphModule) -> tuple[str, ...]:
    """Take None out of the tuples, lists and dicts that forward returns, in place; a note on each.

    A named tuple that has one becomes a dict of its other fields: outputs keep their names.
    """
    graph: Any = module.graph
    leaves = _pytree.tree_leaves(graph.output_node().args[0])
    if None not in leaves:
        return ()
    structure = _pytree.tree_unflatten(leaves, graph._codegen.pytree_info.out_spec)
    paths = [path for path, leaf in _pytree.tree_leaves_with_path(structure) if leaf is None]
    kept, spec = _pytree.tree_flatten(_without_nones(structure))
    if not kept or None in kept:
        return ()  # in a structure of another kind: `output_names` says where
    graph.output_node().args = (tuple(kept),)
    graph._codegen.pytree_info = graph._codegen.pytree_info._replace(out_spec=spec)
    return tuple(f"output {_pytree.keystr(path)} is None: the file has no such output" for path in paths)


def _without_nones(value: Any) -> Any:
    if type(value) is dict:
        return {key: _without_nones(entry) for key, entry in value.items() if entry is not None}
    if type(value) in (list, tuple):
        return type(value)(_without_nones(entry) for entry in value if entry is not None)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        named = {name: _without_nones(entry) for name, entry in value._asdict().items() if entry is not None}
        return named if len(named) < len(value) else type(value)(**named)
    return value
