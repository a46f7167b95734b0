"""How the code of a folder calls a class: arguments that no weight tells, of the call that the weights speak for.

    {"s": dict(width=8, stride=1), "m": dict(width=16, stride=2)}     weights of width 16 ──▶ width=16, stride=2

A call gives its arguments itself, as one of `partial` does, or a table gives them that is handed on as `**table`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from idp_deploy.surveying.definitions import Definition, last_name
from idp_deploy.surveying.layers import literal
from idp_deploy.surveying.sources import Found

DROPPED = re.compile(r"(?i)^(p_)?drop(out)?(_?(p|rate|prob|ratio))?$")  # what only training sees
_MOST = 500  # ways to call one class


@dataclass(frozen=True)
class Way:
    """Arguments that the code gives somewhere."""

    given: Mapping[str, object]
    against: int  # how many of them, and of the defaults of others, the weights speak against
    confirmed: int  # how many of them the weights tell alike


def called(one: Definition, bound: Mapping[str, object], found: Found) -> Mapping[str, object]:
    """Literal arguments of the way to call it that the weights speak for most, and of several alike the first."""
    ways = [way for way in _ways(one, bound, found) if way.given.keys() | bound.keys() >= set(one.needs)]
    return min(ways, key=lambda way: (way.against, -way.confirmed)).given if ways else {}


def doubtful(one: Definition, bound: Mapping[str, object], found: Found) -> dict[str, list[object]]:
    """By argument, the values that ways to call it have of which the weights tell none."""
    ways = [way for way in _ways(one, bound, found) if not way.against and way.confirmed]
    most = max((way.confirmed for way in ways), default=0)
    usual = {name: literal(node, found.constants) for name, node in one.parameters.items()}
    values: dict[str, list[object]] = {}
    for name in one.parameters.keys() - bound.keys():
        for way in ways:
            value = plain(way.given.get(name, usual[name]))
            if way.confirmed == most and value not in values.setdefault(name, []):
                values[name].append(value)
    return {name: values[name] for name in one.parameters if len(values.get(name, ())) > 1 and not DROPPED.search(name)}


def doubts_of(
    one: Definition,
    doubts: Mapping[str, list[object]],
    given: Mapping[str, object],
    bound: Iterable[str],
    found: Found,
) -> Iterator[str]:
    """What the code gives a model and the weights do not tell, in words."""
    for name, values in doubts.items():
        taken = given.get(name, literal(one.parameters[name], found.constants))
        told = " or ".join(f"{value!r}" for value in values)
        yield f"{name} is {told} in the code beside the same sizes, and the weights tell neither: taken is {taken!r}"
    if one.is_class and (names := _untold(one, {*bound, *given}, found)):
        told = ", ".join(names)
        yield f"a factory of {one.spec} computes {told}, which its text does not tell: give what it gives"


def _untold(one: Definition, told: Iterable[str], found: Found) -> tuple[str, ...]:
    """Arguments that factories of a class compute, and that nothing tells."""
    names: dict[str, None] = {}
    for made in found.modules:
        if made.is_class or made.call is None or made.returns != one.name:
            continue
        pairs = zip(one.parameters, made.call.args, strict=False)
        for name, node in (*pairs, *((word.arg, word.value) for word in made.call.keywords if word.arg)):
            own = isinstance(node, ast.Name) and node.id in made.parameters
            if not own and value_of(node, found) is None and getattr(node, "value", ...) is not None:
                names[name] = None
    return tuple(name for name in names if name not in {*told} and not DROPPED.search(name))


def value_of(node: ast.expr | None, found: Found) -> object:
    """A literal, the name of one, or `args.width` and `config["width"]` of settings that have one of that name."""
    if isinstance(node, ast.Attribute):
        return found.settings.get(node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return found.settings.get(str(node.slice.value))
    return literal(node, found.constants)


def _ways(one: Definition, bound: Mapping[str, object], found: Found) -> Iterator[Way]:
    usual = {name: literal(node, found.constants) for name, node in one.parameters.items()}
    for given, is_table in islice(_given(one, found, with_tables=bool(bound)), _MOST):
        values = given if is_table else {**usual, **dict.fromkeys(given), **given}
        told = {name: plain(value) for name, value in values.items() if value is not None and name in bound}
        alike = sum(value == plain(bound[name]) for name, value in told.items())
        usable = {name: value for name, value in given.items() if value is not None and name in one.parameters}
        if alike or not is_table:
            yield Way(usable, len(told) - alike, alike)


def _given(one: Definition, found: Found, *, with_tables: bool) -> Iterator[tuple[dict[str, object], bool]]:
    """(arguments, whether they are a table's); of a name whose value is not known, None."""
    tables = [table for table in found.tables if table.keys() <= one.parameters.keys()] if with_tables else []
    rows = [{name: value_of(node, found) for name, node in table.items()} for table in tables]
    partial = [
        ast.Call(call.args[0], call.args[1:], call.keywords)
        for call in found.calls.get("partial", ())
        if call.args and last_name(call.args[0]) == one.name
    ]
    for call in (*found.calls.get(one.name, ()), *partial):
        own = dict(zip(one.parameters, (value_of(node, found) for node in call.args), strict=False))
        own |= {word.arg: value_of(word.value, found) for word in call.keywords if word.arg}
        if any(word.arg is None for word in call.keywords):
            yield from (({**row, **own}, True) for row in rows)
        yield own, False
    yield from ((row, True) for row in rows)


def plain(value: object) -> object:
    """Tuples as lists, as weights tell them."""
    return list(value) if isinstance(value, tuple) else value
