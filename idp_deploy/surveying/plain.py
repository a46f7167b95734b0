"""What Python does with plain values as forward is followed: numbers, lists and ranges, none of them without end."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from idp_deploy.surveying.layers import ARITHMETIC
from idp_deploy.surveying.tensors import T, combined

MOST_ROUNDS, MOST_ENTRIES, MOST = 64, 4_096, 1 << 53
_MOST_POWER = 64
_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
BUILTINS = frozenset(("range", "int", "round", "zip", "sum", "len", "list", "tuple", "reversed", "enumerate"))


def kept(value: Any) -> Any:
    """A value, or `...` where it is too large to go on with.

    >>> kept(12), kept(10**400), kept(float("inf")), kept([0] * 5_000)
    (12, Ellipsis, Ellipsis, Ellipsis)
    """
    if isinstance(value, int | float):
        return value if abs(value) <= MOST else ...
    if isinstance(value, str | list | tuple):
        return value if len(value) <= MOST_ENTRIES else ...
    return value


def counted(node: ast.operator, left: Any, right: Any) -> Any:
    """What an operator makes of two values that are no tensors."""
    if isinstance(left, list) and isinstance(right, list) and isinstance(node, ast.Add):
        return kept(left + right)
    if isinstance(left, list) and isinstance(right, int) and isinstance(node, ast.Mult):
        return left * right if 0 <= len(left) * right <= MOST_ENTRIES else ...
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if not numbers or type(node) not in ARITHMETIC or (isinstance(node, ast.Pow) and not 0 <= right <= _MOST_POWER):
        return ...
    try:
        found = ARITHMETIC[type(node)](left, right)
    except (ZeroDivisionError, OverflowError):
        return ...
    return kept(found) if isinstance(found, int | float) else ...


def compared(node: ast.cmpop, left: Any, right: Any) -> Any:
    """Whether a comparison holds; `...` where that is not known."""
    if left is ... or right is ...:
        return ...
    if isinstance(node, ast.Is | ast.IsNot):
        return (left is None) == isinstance(node, ast.Is) if right is None else ...
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    words = isinstance(left, str) and isinstance(right, str)
    return _COMPARED[type(node)](left, right) if type(node) in _COMPARED and (numbers or words) else ...


def entry(held: Sequence[Any], at: object) -> Any:
    return held[at] if isinstance(at, int) and -len(held) <= at < len(held) else ...


def between(held: Any, ends: Sequence[Any]) -> Any:
    """`held[a:b:c]`; `...` where one of the ends is not known."""
    fine = all(one is None or isinstance(one, int) for one in ends) and ends[2] != 0
    return held[slice(*ends)] if fine else ...


def listed(value: object) -> list[Any] | None:
    """The values of a list or a range, the first of many; None of anything else."""
    return list(islice(value, MOST_ENTRIES)) if isinstance(value, list | tuple | range) else None


def builtin(name: str, values: Sequence[Any]) -> Any:
    """What one of `BUILTINS` gives."""
    first = values[0] if values else ...
    if name == "range":
        fine = 0 < len(values) < 4 and all(isinstance(one, int) for one in values) and values[2:] != [0]
        return range(*values) if fine else ...
    if name in ("int", "round"):
        number = kept(first)
        known = len(values) == 1 and isinstance(number, int | float)
        return int(number if name == "int" else round(number)) if known and number is not ... else ...
    lists = [listed(one) for one in values]
    entries = lists[0] if lists else None
    if entries is None:
        return ...
    if name == "zip":
        told = [one for one in lists if one is not None]
        return [list(each) for each in zip(*told, strict=False)] if len(told) == len(lists) else ...
    if name == "sum":
        total = entries[0] if entries else ...
        for one in entries[1:]:
            tensors = isinstance(total, T) or isinstance(one, T)
            total = combined(total, one, False) if tensors else counted(ast.Add(), total, one)
        return total
    if name == "len":
        return len(entries) if len(entries) < MOST_ENTRIES else ...
    if name == "enumerate":
        return [[at, one] for at, one in enumerate(entries)] if len(values) == 1 else ...
    return entries[::-1] if name == "reversed" else entries
