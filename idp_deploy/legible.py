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
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

LISTED = 8  # names that are read one by one
LONGEST = 300  # characters without a space; a file name has 255 at most
_CUT = "…"
_INVISIBLE = re.compile(  # control, reading direction, other ends of lines, halves of characters, none at all
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\uffff]"
)
_LONG = re.compile(rf"\S{{{LONGEST + 1},}}")
_DEEPEST = 30  # dots of a name that are looked at
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")
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


def gathered(names: Iterable[str]) -> str:
    """Names side by side; of more than `LISTED`, those that differ in numbers alone are written as a shell would.

    >>> gathered(f"body.{block}.{layer}.weight" for block in (0, 1, 2, 5) for layer in (0, 1, 2))
    'body.{0..2,5}.{0..2}.weight'
    >>> gathered(["body.0.weight", "body.1.weight", "head.weight"])
    'body.0.weight, body.1.weight, head.weight'
    """
    paths = [tuple(name.split(".", _DEEPEST)) for name in names]
    if len(paths) > LISTED:
        for place in reversed(range(_DEEPEST)):
            paths = _gathered_at(place, paths)
    return ", ".join(map(".".join, paths))


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


def _gathered_at(place: int, paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Paths of which those that differ in the number at `place` alone are one, where the first of them stood."""
    numbers: dict[tuple[tuple[str, ...], tuple[str, ...] | None], list[str]] = {}
    for path in paths:
        if _NUMBER.fullmatch("".join(path[place : place + 1])):
            numbers.setdefault((path[:place], path[place + 1 :]), []).append(path[place])
        else:
            numbers[path, None] = []
    return [
        head if rest is None else (*head, _spans(sorted(map(int, found))), *rest)
        for (head, rest), found in numbers.items()
    ]


def _spans(numbers: list[int]) -> str:
    """Ascending numbers, those that follow each other by their ends.

    >>> _spans([3]), _spans([0, 1]), _spans([0, 1, 2, 7])
    ('3', '{0,1}', '{0..2,7}')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return parts[0] if len(numbers) == 1 else f"{{{','.join(parts)}}}"


def _shortened(found: re.Match[str]) -> str:
    half = LONGEST * 2 // 3
    return f"{found[0][:half]}{_CUT}{found[0][half + 1 - LONGEST :]}"
