"""What torch does again and again during an export, and nobody asks for.

Every pass over a graph, torch's own and the converters', compiles Python code of it: more than a hundred times in an
export to three formats, of which a few are ever called. And every table of operators to be spelled out fetches all
operators from the dispatcher once for each namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import fx

from idp_deploy.exporting.collecting import seldom_collecting

_FETCH = "_materialize_cpp_cia_ops"
_MADE = ("forward", "_code", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec")  # by a compilation
_READ = ("__reduce__", "__reduce_package__")  # what takes all of them from the module's dictionary


@contextmanager
def sparing() -> Iterator[None]:
    """Inside, graphs are compiled when they are called, operators fetched once, and the collector seldom looks."""
    with compiled_when_asked(), operators_fetched_once(), seldom_collecting():
        yield


@contextmanager
def compiled_when_asked() -> Iterator[None]:
    """Inside, `recompile` only notes that a graph has changed: who calls the module or reads its code compiles it.

    A module that nobody has asked by the end is compiled when somebody does.
    """
    plain: Any = fx.GraphModule.recompile
    if isinstance(plain, _Deferring):
        yield
        return
    fx.GraphModule.recompile = _Deferring(plain)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        fx.GraphModule.recompile = plain  # type: ignore[method-assign]


class _Deferring:
    """`recompile` of every graph module, as a method."""

    def __init__(self, plain: Callable[[fx.GraphModule], Any]) -> None:
        self.plain = plain

    def __get__(self, module: fx.GraphModule | None, kind: type) -> Any:
        return self if module is None else lambda: self(module)

    def __call__(self, module: fx.GraphModule) -> _Code:
        if not isinstance(vars(type(module)).get("forward"), _Late):
            _Late.stand_in(module, self.plain)
        for child in module.children():
            if isinstance(child, fx.GraphModule):
                child.recompile()
        return _Code(module, self.plain)


class _Late:
    """Stands in the class of one graph module, each has its own, for all that compilation makes."""

    def __init__(self, name: str, compile: Callable[[], None]) -> None:
        self.name, self.compile = name, compile

    @staticmethod
    def stand_in(module: fx.GraphModule, plain: Callable[[fx.GraphModule], Any]) -> None:
        """What an earlier compilation left in the module's dictionary would come first: it waits outside."""
        kind, held = type(module), ref(module)
        before = {name: vars(module).pop(name) for name in _MADE if name in vars(module)}

        def compile() -> None:
            for name in (*_MADE, *_READ):
                if isinstance(vars(kind).get(name), _Late):
                    delattr(kind, name)
            if (found := held()) is not None:
                vars(found).update(before)
                plain(found)

        for name in (*_MADE, *_READ):
            setattr(kind, name, _Late(name, compile))

    def __get__(self, module: fx.GraphModule | None, kind: type) -> Any:
        self.compile()
        return getattr(kind if module is None else module, self.name)


class _Code:
    """What `recompile` gives back, made when it is read."""

    def __init__(self, module: fx.GraphModule, plain: Callable[[fx.GraphModule], Any]) -> None:
        self._module, self._plain = module, plain

    def __getattr__(self, name: str) -> Any:
        _ = self._module.code  # compiled, so that nothing stands in any more
        return getattr(self._plain(self._module), name)


@contextmanager
def operators_fetched_once() -> Iterator[None]:
    """Inside, operators are fetched from the dispatcher again only once a library has registered others."""
    from torch._export import utils

    plain = getattr(utils, _FETCH, None)
    if plain is None or isinstance(plain, _Fetched):  # a torch that goes about it otherwise
        yield
        return
    setattr(utils, _FETCH, _Fetched(plain))
    try:
        yield
    finally:
        setattr(utils, _FETCH, plain)


class _Fetched:
    def __init__(self, plain: Callable[[], None]) -> None:
        self.plain, self.seen = plain, list[str]()

    def __call__(self) -> None:
        known = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if known != self.seen:
            self.plain()
            self.seen = known
