r"""Text that files, folders and people named, as it may be shown: nothing in it moves a cursor or commands a program.

A name in a file is anything at all: it may clear a terminal, turn the reading direction, end an XML document, or begin
a line that a CI server takes for a command. What does is shown as its escape:

>>> legible("conv\x1b[2J\u202e.weight")
'conv\\x1b[2J\\u202e.weight'
>>> legible("n" * 1000)[:4], len(legible("n" * 1000))
('nnnn', 300)
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

LONGEST = 300  # characters without a space; a file name has 255 at most
_CUT = "…"
_INVISIBLE = re.compile(  # control, reading direction, other ends of lines, halves of characters, none at all
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\uffff]"
)
_LONG = re.compile(rf"\S{{{LONGEST + 1},}}")
_COMMANDS = re.compile(r"##(?=\w*\[)")  # Azure Pipelines and TeamCity read them anywhere in a line
_LEADING = re.compile(r"^(\s*):(?=:)", re.MULTILINE)  # GitHub at the beginning of one

T = TypeVar("T")


def legible(text: str) -> str:
    """`text` with what is not to be seen escaped, and words over `LONGEST` cut in the middle; ends of lines stay."""
    return _LONG.sub(_shortened, escaped(text))


def escaped(text: str) -> str:
    """The same of any length, for what is to be typed again."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text).replace("\t", " ")


def on_a_line(text: str) -> str:
    """`legible`, without ends of lines."""
    return legible(text).replace("\n", " ")


def uncommanding(text: str) -> str:
    r"""Finished lines for a log, of which a CI server takes none for a command.

    >>> uncommanding("::error::x\n  ##vso[task.complete]")
    ': :error::x\n  # #vso[task.complete]'
    """
    return _LEADING.sub(r"\1: ", _COMMANDS.sub("# #", text))


def told(value: T, *, lines: bool = False) -> T:
    """A value with every text in it legible, on one line each unless `lines`: dataclasses, lists and tables of them."""
    return _told(value, legible if lines else on_a_line)


def _told(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _told(getattr(value, field.name), change) for field in fields(value)})
    if isinstance(value, dict):
        return {_told(key, change): _told(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_told(item, change) for item in value)
    return value


def _shortened(found: re.Match[str]) -> str:
    half = LONGEST * 2 // 3
    return f"{found[0][:half]}{_CUT}{found[0][half + 1 - LONGEST :]}"
