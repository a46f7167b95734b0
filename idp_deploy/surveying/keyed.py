"""Factories that take a key: `build("base")`, which looks its sizes up in a table or asks for the key by name.

def build(variant): width, stride = SIZES[variant]; return Net(width, stride)     weights of width 16 ──▶ variant="base"

Their text is followed for every key that they know, and none of it is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idp_deploy.surveying.calling import plain
from idp_deploy.surveying.definitions import Definition, last_name
from idp_deploy.surveying.layers import literal
from idp_deploy.surveying.sources import Found

_MOST = 64  # keys of one factory
_ANOTHER = "another key"  # that no text names


@dataclass(frozen=True)
class Keys:
    """The argument that takes a key, the keys with which the weights agree, and the call that the first ends in."""

    argument: str
    fitting: tuple[str, ...]
    call: ast.Call | None


def keys_of(one: Definition, made: Definition, bound: Mapping[str, object], found: Found) -> Keys | None:
    """Which keys of a factory build the class as the weights tell it; None where it takes none that can be followed."""
    if one.body is None or not bound:
        return None
    usual = {name: literal(node, found.constants) for name, node in made.parameters.items()}
    for name, default in one.parameters.items():
        known = list(dict.fromkeys(_known(one.body, name, found)))[:_MOST]
        if not known or not (default is None or isinstance(literal(default, found.constants), str)):
            continue
        ends = [(key, _Following(one, {name: key}, found).call(made)) for key in (*known, _ANOTHER)]
        if all(given is None for _, given in ends):
            continue
        fitting: list[tuple[int, str, Mapping[str, object]]] = []
        for key, given in ends:
            values = {**usual, **given} if given is not None else {}
            told = [plain(values[part]) == plain(bound[part]) for part in bound if values.get(part) is not None]
            if told and all(told):
                fitting.append((len(told), key, given or {}))
        most = [row for row in fitting if row[0] == max(fitting)[0]] if fitting else []
        if any(key == _ANOTHER for _, key, _ in most):
            if literal(default, found.constants) in (None, *(key for _, key, _ in most)):
                continue
            return Keys(name, (), None)  # it was built with a key, and nothing tells with which
        return Keys(name, tuple(key for _, key, _ in most), _call(made, most[0][2]) if most else None)
    return None


def _known(body: ast.FunctionDef, name: str, found: Found) -> Iterator[str]:
    """Keys that a function has a table for, or compares its argument with."""
    for node in ast.walk(body):
        table = None
        if isinstance(node, ast.Subscript) and getattr(node.slice, "id", "") == name:
            table = literal(node.value, found.constants)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            asked = [getattr(one, "id", "") for one in node.args[:1]]
            table = literal(node.func.value, found.constants) if asked == [name] else None
        elif isinstance(node, ast.Compare) and getattr(node.left, "id", "") == name:
            told = literal(node.comparators[0], found.constants)
            table = dict.fromkeys([told] if isinstance(told, str) else told if isinstance(told, list | tuple) else ())
        yield from (key for key in (table if isinstance(table, Mapping) else ()) if isinstance(key, str))


class _UnknownError(Exception):
    """What a text makes cannot be told without running it."""


class _Following:
    """The statements of a factory, with its arguments known."""

    def __init__(self, one: Definition, given: Mapping[str, object], found: Found) -> None:
        usual = {name: literal(node, found.constants) for name, node in one.parameters.items()}
        self._known: dict[str, Any] = {**found.constants, **{k: v for k, v in usual.items() if v is not None}, **given}
        self._body = one.body or ast.parse("def f(): pass").body[0]
        self._made: dict[str, ast.Call] = {}

    def call(self, made: Definition) -> Mapping[str, object] | None:
        """Arguments of the class that is returned; None where another is, or it cannot be told which."""
        try:
            end = self._run(getattr(self._body, "body", ()))
        except (_UnknownError, LookupError, TypeError, ValueError, RecursionError):
            return None
        if end is None or last_name(end.func) != made.name:
            return None
        pairs = [*zip(made.parameters, end.args, strict=False), *((word.arg, word.value) for word in end.keywords)]
        given: dict[str, object] = {}
        for name, node in pairs:
            try:
                value = self._value(node)
            except (_UnknownError, LookupError, TypeError, ValueError):
                if not name:
                    return None
                value = None
            given |= {name: value} if name else value
        return {name: value for name, value in given.items() if name in made.parameters}

    def _run(self, body: Sequence[ast.stmt]) -> ast.Call | None:
        for node in body:
            if isinstance(node, ast.If):
                branch = node.body if self._value(node.test) else node.orelse
                if (end := self._run(branch)) is not None:
                    return end
            elif isinstance(node, ast.Raise):
                raise _UnknownError
            elif isinstance(node, ast.Return):
                if isinstance(node.value, ast.Name):
                    return self._made.get(node.value.id)
                return node.value if isinstance(node.value, ast.Call) else None
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._assign(node.targets[0], node.value)
            elif isinstance(node, ast.For | ast.While | ast.Try | ast.With):
                raise _UnknownError
        return None

    def _assign(self, target: ast.expr, node: ast.expr) -> None:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        for name in names:
            self._known.pop(getattr(name, "id", ""), None)
        if isinstance(target, ast.Name) and isinstance(node, ast.Call):
            self._made[target.id] = node
        try:
            value = self._value(node)
        except (_UnknownError, LookupError, TypeError, ValueError):
            return
        values = value if isinstance(target, ast.Tuple) else [value]
        self._known |= {name.id: one for name, one in zip(names, values, strict=True) if isinstance(name, ast.Name)}

    def _asked(self, method: ast.Attribute, given: Sequence[Any]) -> Any:
        owner = self._value(method.value)
        if isinstance(owner, Mapping) and method.attr == "get":
            return owner.get(*given)
        if isinstance(owner, str) and method.attr == "lower":
            return owner.lower()
        raise _UnknownError

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Name():
                return self._known[node.id]
            case ast.Subscript():
                return self._value(node.value)[self._value(node.slice)]
            case ast.Tuple() | ast.List():
                return [self._value(one) for one in node.elts]
            case ast.Dict():
                pairs = [(key, self._value(one)) for key, one in zip(node.keys, node.values, strict=True)]
                return {
                    k: v for key, value in pairs for k, v in ([(self._value(key), value)] if key else value.items())
                }
            case ast.Call(func=ast.Name(id="dict")):
                parts = [self._value(one) for one in node.args]
                parts += [{w.arg: self._value(w.value)} if w.arg else self._value(w.value) for w in node.keywords]
                return {key: value for part in parts for key, value in part.items()}
            case ast.Call(func=ast.Attribute(attr="get" | "lower")) if not node.keywords:
                return self._asked(node.func, [self._value(one) for one in node.args])  # type: ignore[arg-type]
            case ast.Compare(ops=[operator]):
                left, right = self._value(node.left), self._value(node.comparators[0])
                if isinstance(operator, ast.Eq | ast.NotEq):
                    return (left == right) == isinstance(operator, ast.Eq)
                if isinstance(operator, ast.In | ast.NotIn):
                    return (left in right) == isinstance(operator, ast.In)
                if isinstance(operator, ast.Is | ast.IsNot):
                    return (left is right) == isinstance(operator, ast.Is)
            case ast.UnaryOp(op=ast.Not()):
                return not self._value(node.operand)
            case ast.Constant():
                return node.value
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise _UnknownError from None


def _call(made: Definition, given: Mapping[str, object]) -> ast.Call:
    words = [ast.keyword(name, ast.parse(repr(value), mode="eval").body) for name, value in given.items()]
    return ast.Call(ast.Name(made.name), [], words)
