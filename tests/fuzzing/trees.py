"""One way to see any parsed document: places that can be read and written, whatever library parsed it.

A place is a leaf (a number, a text, bytes) or a list of things. Mutations work on places alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_LEAVES = (bool, int, float, str, bytes)


@dataclass(frozen=True)
class Place:
    """Where a value stands. `path` is for messages; `drop` removes an entry from its list or mapping."""

    path: str
    value: Any
    set: Callable[[Any], None]
    drop: Callable[[], None] | None = None
    twin: Callable[[], None] | None = None  # repeats the entry


def plain(node: Any, path: str = "") -> Iterator[Place]:
    """Places of JSON-like values: dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        here = f"{path}/{key}"
        twin = (lambda n=node, k=key, v=value: n.insert(k, v)) if isinstance(node, list) else None
        yield Place(here, value, _setter(node, key), lambda n=node, k=key: n.pop(k), twin)
        if isinstance(value, dict | list):
            yield from plain(value, here)


def protobuf(message: Message, path: str = "") -> Iterator[Place]:
    """Places of a protobuf message, repeated fields and maps included."""
    for descriptor, value in message.ListFields():
        here = f"{path}/{descriptor.name}"
        nested = descriptor.type == FieldDescriptor.TYPE_MESSAGE
        if nested and descriptor.message_type.GetOptions().map_entry:
            for key in list(value):
                entry = value[key]
                drop = lambda v=value, k=key: v.pop(k)  # noqa: E731
                if isinstance(entry, Message):
                    yield Place(f"{here}/{key}", entry, _nothing, drop)
                    yield from protobuf(entry, f"{here}/{key}")
                else:
                    yield Place(f"{here}/{key}", entry, _setter(value, key), drop)
        elif descriptor.is_repeated:
            for i in range(len(value)):
                drop = lambda v=value, i=i: v.__delitem__(i)  # noqa: E731
                twin = (lambda v=value, i=i: v.add().CopyFrom(v[i])) if nested else lambda v=value, i=i: v.append(v[i])
                yield Place(f"{here}[{i}]", value[i], _nothing if nested else _setter(value, i), drop, twin)
                if nested:
                    yield from protobuf(value[i], f"{here}[{i}]")
        elif nested:
            yield Place(here, value, _nothing, lambda m=message, n=descriptor.name: m.ClearField(n))
            yield from protobuf(value, here)
        else:
            yield Place(here, value, lambda v, m=message, n=descriptor.name: setattr(m, n, v))


def objects(node: Any, path: str = "") -> Iterator[Place]:
    """Places of the classes that a flatbuffer schema generates."""
    for name, value in vars(node).items():
        here = f"{path}/{name}"
        if isinstance(value, np.ndarray):
            yield Place(here, value, lambda v, o=node, n=name: setattr(o, n, v))
        elif isinstance(value, list):
            for i, entry in enumerate(value):
                drop, twin = (lambda v=value, i=i: v.pop(i)), (lambda v=value, i=i: v.insert(i, v[i]))
                yield Place(f"{here}[{i}]", entry, _setter(value, i), drop, twin)
                if hasattr(entry, "__dict__"):
                    yield from objects(entry, f"{here}[{i}]")
        elif isinstance(value, (*_LEAVES, np.generic)):
            yield Place(here, value, lambda v, o=node, n=name: setattr(o, n, v))
        elif hasattr(value, "__dict__"):
            yield Place(here, value, _nothing, lambda o=node, n=name: setattr(o, n, None))
            yield from objects(value, here)


def _setter(container: Any, key: Any) -> Callable[[Any], None]:
    return lambda value: container.__setitem__(key, value)


def _nothing(_: Any) -> None:
    """A message inside a message cannot be assigned."""
