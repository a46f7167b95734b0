"""What a registry builds modules of: `dict(type="Net", width=8)` in a file of Python, `type: Net` in YAML and JSON.

model = dict(type="Detector", backbone=dict(type="Net", width=8)) ──▶ Recipe("Detector", "type", {"backbone": {…}})
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from idp_deploy.surveying.layers import is_writable

KEYS = ("type", "name", "NAME")
MOST_VALUES = 500  # of one recipe: YAML can write a thousand in a line


@dataclass(frozen=True)
class Recipe:
    """A table that names a class, and its arguments, tables of other classes among them."""

    kind: str  # the class, as its registry calls it
    key: str  # under which it is named
    arguments: Mapping[str, object]

    def table(self) -> dict[str, object]:
        """As a configuration has it."""
        return {self.key: self.kind, **self.arguments}


def recipe(table: object) -> Recipe | None:
    """What a table builds; None where it names no class, or is too large or no plain values.

    >>> recipe({"type": "Net", "width": 8}), recipe({"width": 8})
    (Recipe(kind='Net', key='type', arguments={'width': 8}), None)
    """
    if not isinstance(table, Mapping):
        return None
    key = next((key for key in KEYS if isinstance(table.get(key), str)), None)
    if key is None or not is_writable(table):
        return None
    try:
        plain = _copied(table, [MOST_VALUES])
    except (ValueError, RecursionError):
        return None
    return Recipe(plain.pop(key), key, plain)


def dotted(table: object) -> dict[str, object]:
    """A whole table of settings by dotted names; empty where it is too large or holds what is no plain value.

    >>> dotted({"MODEL": {"WIDTH": 8, "BODY": {"NAME": "Net"}}})
    {'MODEL.WIDTH': 8, 'MODEL.BODY.NAME': 'Net'}
    """
    try:
        plain = _copied(table, [MOST_VALUES]) if isinstance(table, Mapping) and is_writable(table) else {}
    except (ValueError, RecursionError):
        return {}
    found: dict[str, object] = {}
    left = list(plain.items())[::-1]
    while left:
        name, value = left.pop()
        if isinstance(value, Mapping):
            left += [(f"{name}.{key}", one) for key, one in value.items()][::-1]
        elif all(part.isidentifier() for part in name.split(".")):
            found[name] = value
    return found


def _copied(value: Any, left: list[int]) -> Any:
    """
    Raises:
        ValueError: it has no end, or is no plain value.
    """
    left[0] -= 1
    if left[0] < 0:
        raise ValueError
    if isinstance(value, Mapping):
        return {str(key): _copied(one, left) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(one, left) for one in value)
    if value is None or (isinstance(value, int | float | str) and len(str(value)) < 200):
        return value
    raise ValueError


def in_python(tree: ast.Module) -> Iterator[Mapping[str, object]]:
    """The tables of a file of configuration, or of a script, that name a class.

    >>> next(in_python(ast.parse("n = 3\\nmodel = dict(type='Net', head=dict(classes=n))")))
    {'type': 'Net', 'head': {'classes': 3}}
    """
    known: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and (value := _value(statement.value, known)) is not None:
            known |= {target.id: value for target in statement.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        named = node.keywords if _is_dict(node) else node.keys if isinstance(node, ast.Dict) else ()
        words = (getattr(one, "arg", getattr(one, "value", None)) for one in named)
        if any(word in KEYS for word in words) and isinstance(table := _value(node, known), Mapping):
            yield table


def _is_dict(node: ast.AST) -> TypeGuard[ast.Call]:
    """`dict(width=8)`"""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict" and not node.args


def table_of(node: ast.AST) -> dict[str, ast.expr]:
    """The arguments of `{"width": 8}` and of `dict(width=8)`; empty where it is neither, or has other keys than words.

    >>> [ast.unparse(one) for one in table_of(ast.parse("{'width': 2 * n}", mode="eval").body).values()]
    ['2 * n']
    """
    if _is_dict(node):
        return {word.arg: word.value for word in node.keywords if word.arg}
    if not isinstance(node, ast.Dict):
        return {}
    keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
    pairs = zip(keys, node.values, strict=True)
    fine = all(isinstance(key, str) and key.isidentifier() for key in keys)
    return {key: one for key, one in pairs if isinstance(key, str)} if fine else {}


def plain_value(node: ast.expr) -> Any:
    """What a literal means, and a table with `dict(width=8)` in it; None where it is neither."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _value(node, {}) if isinstance(node, ast.Dict) or _is_dict(node) else None


def _value(node: ast.AST, known: Mapping[str, Any]) -> Any:
    """What tables, lists, literals and names of such mean; None where it is something else."""
    try:
        return _plain(node, known)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _plain(node: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if _is_dict(node):
        return {word.arg or "**": _plain(word.value, known) for word in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key or node): _plain(one, known) for key, one in pairs}
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(one, known) for one in node.elts]
    return ast.literal_eval(node)
