"""Python's collector, held back while models are converted.

Every trace and every pass makes a graph of some hundred thousand objects, nearly all of which live on to the next
one, beside the million that imported converters hold. The collector looks through all of them again and again: a
twelfth of an export's time, with as much memory in use at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 50_000  # made since the last look


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Inside, what is there already is left alone and new objects are looked through 50,000 at a time.

    A caller who is more patient stays so, and keeps what he has frozen.

    >>> before = gc.get_threshold(), gc.get_freeze_count()
    >>> with seldom_collecting():
    ...     gc.get_threshold()[0] >= 50_000, gc.get_freeze_count() > 0
    (True, True)
    >>> (gc.get_threshold(), gc.get_freeze_count()) == before
    True
    """
    before, ours = gc.get_threshold(), not gc.get_freeze_count()
    if before[0]:  # 0: the caller has switched it off
        gc.set_threshold(max(before[0], _OBJECTS), *before[1:])
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if ours:
            gc.unfreeze()
