"""What a forward returns besides tensors: dataclasses that torch does not know, other objects, None and numbers."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree


def know_structures(returned: Any) -> bool:
    """Tell torch how to take apart the dataclasses in what a forward returned; whether there were any it knew not."""
    unknown = {type(leaf) for leaf in _pytree.tree_leaves(returned) if is_dataclass(leaf)}
    for kind in unknown:
        torch.export.register_dataclass(kind)
    if unknown:
        know_structures(returned)  # those inside
    return bool(unknown)


def name_objects(module: nn.Module, returned: Any) -> bool:
    """Let forward return the name of a class in the place of an object of it, such as a cache of keys and values.

    In place, beside tensors; whether there were any. `leave_out_constants` leaves out the names with a note on each.
    """
    leaves = _pytree.tree_leaves(returned)
    objects = [leaf for leaf in leaves if not isinstance(leaf, Tensor) and not _is_constant(leaf)]
    if not objects or len(objects) == len(leaves) or "forward" in vars(module):
        return False

    @wraps(type(module).forward)
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        leaves, spec = _pytree.tree_flatten(type(self).forward(self, *inputs, **named))
        plain = (leaf if isinstance(leaf, Tensor) or _is_constant(leaf) else type(leaf).__name__ for leaf in leaves)
        return _pytree.tree_unflatten(plain, spec)

    module.forward = MethodType(forward, module)
    return True


def leave_out_constants(module: fx.GraphModule) -> tuple[str, ...]:
    """Take what is no tensor out of the tuples, lists and dicts that forward returns, in place; a note on each.

    A named tuple or a dataclass that has some becomes a dict of its other fields: outputs keep their names.
    """
    graph: Any = module.graph
    leaves = _pytree.tree_leaves(graph.output_node().args[0])
    if all(isinstance(leaf, fx.Node) for leaf in leaves):
        return ()
    structure = _pytree.tree_unflatten(leaves, graph._codegen.pytree_info.out_spec)
    paths = [(path, leaf) for path, leaf in _pytree.tree_leaves_with_path(structure) if not isinstance(leaf, fx.Node)]
    kept, spec = _pytree.tree_flatten(_without_constants(structure))
    if not kept or not all(isinstance(leaf, fx.Node) for leaf in kept):
        return ()  # in a structure of another kind: `output_names` says where
    graph.output_node().args = (tuple(kept),)
    graph._codegen.pytree_info = graph._codegen.pytree_info._replace(out_spec=spec)
    return tuple(f"output {_pytree.keystr(path)} is {leaf!r}: the file has no such output" for path, leaf in paths)


def _without_constants(value: Any) -> Any:
    if type(value) is dict:
        return {key: _without_constants(entry) for key, entry in value.items() if not _is_constant(entry)}
    if type(value) in (list, tuple):
        return type(value)(_without_constants(entry) for entry in value if not _is_constant(entry))
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
        return _without_constants(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        given = value._asdict()
        named = {name: _without_constants(entry) for name, entry in given.items() if not _is_constant(entry)}
        return named if len(named) < len(value) else type(value)(**named)
    return value


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
