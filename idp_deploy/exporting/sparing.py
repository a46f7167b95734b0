"""What torch does again and again during an export, and nobody asks for.

Every table of operators to be spelled out asks the dispatcher for all operators once for each of some thirty
namespaces, and every decomposition gives some 600 operators ten kernels each, with a new type hint for each of these:
together a quarter of what a small model's export takes.
"""

from __future__ import annotations

import collections.abc
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch

from idp_deploy.collecting import seldom_collecting

_COLLECT = "_collect_all_valid_cia_ops"
_COLLECTING = ("torch._export.utils", "torch.export.exported_program", "torch.export.decomp_utils")


@contextmanager
def sparing() -> Iterator[None]:
    """Inside, operators are fetched once, type hints are made once, and the collector seldom looks."""
    with operators_fetched_once(), hints_made_once(), seldom_collecting():
        yield


@contextmanager
def operators_fetched_once() -> Iterator[None]:
    """Inside, operators are fetched from the dispatcher again only once a library has registered others."""
    known: list[tuple[Any, Callable[[], set[Any]]]] = [
        (module, getattr(module, _COLLECT)) for module in map(import_module, _COLLECTING) if hasattr(module, _COLLECT)
    ]  # none in a torch that goes about it otherwise
    for module, plain in known:
        setattr(module, _COLLECT, plain if isinstance(plain, Fetched) else _fetched(plain))
    try:
        yield
    finally:
        for module, plain in known:
            setattr(module, _COLLECT, plain)


class Fetched:
    """The function that fetches them, which does so again where the list of what is registered is another."""

    def __init__(self, plain: Callable[[], set[Any]]) -> None:
        self.plain, self.seen, self.found = plain, list[str](), set[Any]()

    def __call__(self) -> set[Any]:
        known = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if known != self.seen:
            self.found = self.plain()
            self.seen = known
        return set(self.found)


_fetched = cache(Fetched)  # one for all exports of a process


@contextmanager
def hints_made_once() -> Iterator[None]:
    """Inside, torch makes the type hints of a kernel that it registers from `typing`, which makes equal ones once."""
    hints: Any = torch._ops
    if getattr(hints, "Callable", None) is not collections.abc.Callable:  # inside of another, or another torch
        yield
        return
    hints.Callable = typing.Callable
    try:
        yield
    finally:
        hints.Callable = collections.abc.Callable
