"""What torch does again and again during an export, and nobody asks for.

Every table of operators to be spelled out fetches all operators from the dispatcher once for each namespace: some 250
times in an export to three formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from idp_deploy.exporting.collecting import seldom_collecting

_FETCH = "_materialize_cpp_cia_ops"


@contextmanager
def sparing() -> Iterator[None]:
    """Inside, operators are fetched once, and the collector seldom looks."""
    with operators_fetched_once(), seldom_collecting():
        yield


@contextmanager
def operators_fetched_once() -> Iterator[None]:
    """Inside, operators are fetched from the dispatcher again only once a library has registered others."""
    from torch._export import utils

    plain = getattr(utils, _FETCH, None)
    if plain is None or isinstance(plain, Fetched):  # a torch that goes about it otherwise
        yield
        return
    setattr(utils, _FETCH, Fetched(plain))
    try:
        yield
    finally:
        setattr(utils, _FETCH, plain)


class Fetched:
    """The function that fetches them, as one that does nothing while the list of what is registered stays the same."""

    def __init__(self, plain: Callable[[], None]) -> None:
        self.plain, self.seen = plain, list[str]()

    def __call__(self) -> None:
        known = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if known != self.seen:
            self.plain()
            self.seen = known
