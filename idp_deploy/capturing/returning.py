"""What a forward takes and returns besides tensors: structures that torch does not know, objects, None and numbers."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree


def know_structures(returned: Any) -> bool:
    """Tell torch how to take apart dataclasses, dicts of a kind of their own and namespaces; whether there were any.

    Where something is returned that holds no tensor for torch, an object's attributes as well.
    """
    leaves = _pytree.tree_leaves(returned)
    alone = not any(isinstance(leaf, Tensor) for leaf in leaves)
    unknown = {type(leaf): leaf for leaf in leaves if is_dataclass(leaf) or isinstance(leaf, _KEYED)}
    if alone and not unknown:
        unknown = {type(leaf): leaf for leaf in leaves if any(isinstance(v, Tensor) for v in _entries(leaf).values())}
    unknown = {kind: leaf for kind, leaf in unknown.items() if _is_made_of_entries(leaf)}
    for kind in unknown:
        torch.export.register_dataclass(kind) if is_dataclass(kind) else _know(kind)
    if unknown:
        know_structures(returned)  # those inside
    return bool(unknown)


def _is_made_of_entries(value: Any) -> bool:
    """Whether it can be taken apart and made again: it can be written to, and does not hold itself."""
    try:
        if not is_dataclass(value):
            _made(type(value), _entries(value))
        return not _holds(value, value)
    except Exception:  # of their own code, or there is no end
        return False


def _holds(value: Any, whole: Any) -> bool:
    is_apart = isinstance(value, _KEYED) or type(value) is type(whole) or type(value) in known
    inside = value if isinstance(value, list | tuple) else _entries(value).values() if is_apart else ()
    return any(one is whole or _holds(one, whole) for one in inside)


def _know(kind: type) -> None:
    """Register a kind of dict, or of object with attributes, with torch."""
    known.add(kind)
    _pytree.register_pytree_node(
        kind,
        lambda value: (list(_entries(value).values()), list(_entries(value))),
        lambda values, keys: _made(kind, dict(zip(keys, values, strict=True))),
        flatten_with_keys_fn=lambda value: (
            [(_pytree.MappingKey(key), entry) for key, entry in _entries(value).items()], list(_entries(value))
        ),
    )  # fmt: skip


def _entries(value: Any) -> dict[Any, Any]:
    return dict(value) if isinstance(value, Mapping) else dict(getattr(value, "__dict__", {}))


def _made(kind: Any, entries: dict[Any, Any]) -> Any:
    made = kind.__new__(kind)
    if not issubclass(kind, Mapping):
        vars(made).update(entries)
    elif issubclass(kind, UserDict):
        made.data = entries
    else:
        for key, entry in entries.items():
            made[key] = entry  # such kinds as have their entries as attributes keep both that way
    return made


_KEYED = (Mapping, SimpleNamespace)
known: set[type] = set()


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
    if not any(_is_constant(leaf) for leaf in leaves) and all(isinstance(leaf, fx.Node) for leaf in leaves):
        return ()
    structure = _pytree.tree_unflatten(leaves, graph._codegen.pytree_info.out_spec)
    paths = [
        (_pytree.keystr(path), "a size of the inputs" if isinstance(leaf, fx.Node) else repr(leaf))
        for path, leaf in _pytree.tree_leaves_with_path(structure)
        if not isinstance(leaf, fx.Node) or _is_constant(leaf)
    ]
    kept, spec = _pytree.tree_flatten(_without_constants(structure))
    if not kept or not all(isinstance(leaf, fx.Node) for leaf in kept):
        return ()  # in a structure of another kind: `output_names` says where
    graph.output_node().args = (tuple(kept),)
    graph._codegen.pytree_info = graph._codegen.pytree_info._replace(out_spec=spec)
    return tuple(f"output {path} is {said}: the file has no such output" for path, said in paths)


def _without_constants(value: Any) -> Any:
    if type(value) is dict:
        return {key: _without_constants(entry) for key, entry in value.items() if not _is_constant(entry)}
    if type(value) in known:
        return _without_constants(_entries(value))
    if isinstance(value, torch.Size):
        return _without_constants(tuple(value))
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
    """Whether it is no tensor; in a graph a size of the inputs is a node that gives none."""
    if isinstance(value, fx.Node):
        return isinstance(value.meta.get("val"), bool | int | float | torch.SymInt | torch.SymFloat | torch.SymBool)
    return value is None or isinstance(value, bool | int | float | str)
