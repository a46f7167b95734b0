"""What takes seconds says how far it is to whoever listens; nobody does unless a command line waits.

>>> list(counted([1, 2], "doubling"))
[1, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Heard = Callable[[str, int, int | None], None]  # (what, pieces done, of how many or None)
_listener: ContextVar[Heard | None] = ContextVar("listener", default=None)


def counted(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """The items as they are; the listener hears how many are done after each.

    Args:
        total: how many there are; by default as `items` has a length.
    """
    heard = _listener.get()
    return items if heard is None else _telling(items, what, total, heard)


@contextmanager
def listening(heard: Heard) -> Iterator[None]:
    """Let `heard` be told for as long."""
    before = _listener.set(heard)
    try:
        yield
    finally:
        _listener.reset(before)


def _telling(items: Iterable[T], what: str, total: int | None, heard: Heard) -> Iterator[T]:
    if total is None:
        try:
            total = len(items)  # type: ignore[arg-type]
        except TypeError:  # a loader over a stream has none
            total = None
    heard(what, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        heard(what, done, total)
