"""Python's collector, held back while models are converted, and while short commands import what they need.

Every trace and every pass makes a graph of some hundred thousand objects, nearly all of which live on to the next
one, beside the million that imported converters hold. The collector looks through all of them again and again: a
twelfth of an export's time and of a `simulate`, with as much memory in use at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 200_000  # made since the last look


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Inside, what is there already is left alone and new objects are looked through 200,000 at a time.

    A caller who is as patient stays so, this function around itself among them: counting what is frozen takes as long
    as a tenth of a conversion. What he has frozen stays frozen.

    >>> before = gc.get_threshold(), gc.get_freeze_count()
    >>> with seldom_collecting():
    ...     gc.get_threshold()[0] >= 200_000, gc.get_freeze_count() > 0
    (True, True)
    >>> (gc.get_threshold(), gc.get_freeze_count()) == before
    True
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _OBJECTS:  # 0: the caller has switched it off
        yield
        return
    ours = not gc.get_freeze_count()
    gc.set_threshold(_OBJECTS, *before[1:])
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if ours:
            gc.unfreeze()
