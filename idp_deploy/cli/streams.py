"""stdin, stdout and stderr as the process got them, and what libraries write there."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

_TYPED = {
    "µ": "u", "±": "+-", "×": "x", "·": "*", "→": "->", "–": "-", "−": "-", "—": "--", "…": "...", "≤": "<=",
    "≥": ">=", "≈": "~", "²": "^2", "─": "-", "✓": "ok", "✗": "x",
}  # fmt: skip


def open_closed() -> None:
    """A stream that the caller closed (`>&-`) goes nowhere, and no file that is opened later takes its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest number that is free, which is this one
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def escape_unprintable() -> None:
    """What the terminal's encoding lacks (`LC_ALL=C`) is spelled: our signs as people type them (`us`, `+-`, `->`),
    other characters as their escapes; JSON has none of them."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        codecs.register_error(_spelled.__name__, _spelled)
        sys.stdout.reconfigure(errors=_spelled.__name__)


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a codec asks about characters that it lacks: the first of them, and where to go on."""
    if isinstance(error, UnicodeEncodeError) and (typed := _TYPED.get(error.object[error.start])):
        return typed, error.start + 1
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


def silence_libraries() -> None:
    """Converters and runtimes chat on stderr, some from C++: keep Python's stderr, send the raw descriptor nowhere."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    own = os.dup(2)
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding="utf-8", errors="replace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


_results: list[Any] = []  # stdout, while `sys.stdout` is for everybody


def results() -> Any:
    """Where a command's result goes: the stdout that its caller gave it."""
    return _results[-1] if _results else sys.stdout


@contextmanager
def results_apart() -> Iterator[None]:
    """Inside, whatever prints prints to stderr: the code of a model or a task, and the processes that it starts."""
    own = None
    try:
        if sys.stdout.fileno() == 1:
            sys.stdout.flush()
            own = os.dup(1)
            os.dup2(sys.stderr.fileno(), 1)
    except (OSError, ValueError):  # one of them is no file, as in a test or a notebook
        pass
    now, theirs = sys.stdout, sys.stderr
    if own is not None:
        now = os.fdopen(os.dup(own), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
        theirs = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")  # one that may be closed
    _results.append(now)
    try:
        with redirect_stdout(theirs):
            yield
    finally:
        _results.pop()
        if own is not None:
            os.dup2(own, 1)
            os.close(own)
            for stream in (now, theirs):
                with suppress(BrokenPipeError):
                    stream.close()


def unheard() -> None:
    """The reader of stdout left, as `| head` does: what else is printed goes nowhere, the command ends as it would."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), results().fileno())
