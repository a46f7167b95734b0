"""Arguments as Python's callers write them: shares as text, scalars of numpy and torch, one name where several go."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from idp_deploy.errors import UsageError, a_type
from idp_deploy.units import parse

FilePath = str | os.PathLike[str]  # whatever `path_of` takes, an `Artifact` too


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own, also inside of a mapping; anything else as it is.

    >>> import numpy as np
    >>> plain(np.float32(0.5)), plain({"a": np.int64(3)}), plain("90%")
    (0.5, {'a': 3}, '90%')
    """
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 0) == 0:
        try:
            return item()
        except (TypeError, ValueError, RuntimeError):  # a tensor on the device "meta", somebody's own `item`
            return value
    return value


def share(name: str, value: Any) -> float:
    """A share of zeros, as a number or as text.

    Raises:
        UsageError: it is none, or not from 0 to below 1.

    >>> share("sparsity", "90%"), share("sparsity", 0.5)
    (0.9, 0.5)
    >>> share("sparsity", 90)
    Traceback (most recent call last):
    ...
    idp_deploy.errors.UsageError: sparsity is 90 — give a share of zeros, 0 ≤ sparsity < 1, such as 0.9 or "90%"
    """
    told = plain(value)
    try:
        found = parse(told, "share") if isinstance(told, str) else number(told)
    except UsageError:
        found = None
    if found is None or not 0 <= found < 1:
        raise UsageError(f"{name} is {told!r}", way_out=f'give a share of zeros, 0 ≤ {name} < 1, such as 0.9 or "90%"')
    return found


def count(name: str, value: Any, *, least: int | None = None) -> int:
    """A count.

    Raises:
        UsageError: it is no whole number, or less than `least`.

    >>> count("epochs", 3.0, least=1)
    3
    """
    told = plain(value)
    found = number(told)
    if found is None or not found.is_integer() or (least is not None and found < least):
        raise UsageError(
            f"{name} is {told!r}", way_out="give a whole number" + ("" if least is None else f" from {least}")
        )
    return int(told)


def number(value: Any) -> float | None:
    """A number that is no truth value; None for all else.

    >>> from fractions import Fraction
    >>> number(Fraction(1, 2)), number(True), number("1"), number([1])
    (0.5, None, None, None)
    """
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__") or getattr(value, "ndim", 0) != 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def names(name: str, value: Any, example: str) -> tuple[str, ...]:
    """Names or globs; one by itself need not be in a list.

    Raises:
        UsageError: something else than text is among them.

    >>> names("skip", "head.*", "head.*"), names("skip", ["a", "b"], "head.*"), names("skip", None, "head.*")
    (('head.*',), ('a', 'b'), ())
    """
    if value is None:
        return ()
    several = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    try:
        found = tuple(several)
    except TypeError:  # an array without dimensions says that it can be walked over
        found = (value,)
    if wrong := [one for one in found if not isinstance(one, str)]:
        raise UsageError(f"{name} holds {wrong[0]!r}, which is no text", way_out=f'give {name}=["{example}"]')
    return found


def arguments_of(name: str, value: Any, *, needed: bool = False) -> Any:
    """One call's positional arguments as a tuple; a tensor by itself is the only one. None stays None unless `needed`.

    Raises:
        UsageError: it is something else, such as arguments by keyword.

    >>> arguments_of("example_inputs", [1, 2])
    (1, 2)
    """
    if isinstance(value, tuple) or (value is None and not needed):
        return value
    if isinstance(value, list):
        return tuple(value)
    if hasattr(value, "shape"):
        return (value,)
    raise UsageError(
        f"{name} is {a_type(value)}",
        way_out="give one call's positional arguments, such as (x,) or (ids, mask)",
    )


def path_of(name: str, value: Any) -> Path:
    """The path of a file, as text or as anything that has one, such as an `Artifact`.

    Raises:
        UsageError: it has none.

    >>> path_of("artifact", "model.onnx").suffix
    '.onnx'
    """
    if isinstance(value, str | os.PathLike) and isinstance(path := os.fspath(value), str):
        return Path(path)
    raise UsageError(f"{name} is {value!r}, which names no file", way_out="give a path")


def truth(name: str, value: Any) -> bool:
    """A truth value; words are none, since "no" would be true.

    Raises:
        UsageError: it is something else.
    """
    told = plain(value)
    if not isinstance(told, bool):
        raise UsageError(f"{name} is {told!r}", way_out="give True or False")
    return told


def size(name: str, value: Any) -> float:
    """A finite number from 0.

    Raises:
        UsageError: it is none.

    >>> size("tolerance", 1)
    1.0
    """
    found = number(plain(value))
    if found is None or not math.isfinite(found) or found < 0:
        raise UsageError(f"{name} is {value!r}", way_out="give a number from 0")
    return found
