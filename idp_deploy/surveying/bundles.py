"""Arguments that arrive in one object: `Net(config)`, whose layers are given `config.width` or `config["width"]`."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bundle:
    """What a module reads of one of its arguments."""

    fields: tuple[str, ...]
    keyed: bool  # by key: a dict
    kind: str  # the class that the argument is annotated with, "" where it is not


@dataclass(frozen=True)
class Record:
    """A class of the folder that holds settings: a dataclass, or one whose `__init__` takes them."""

    spec: str  # "pkg.conf:Config"
    fields: Mapping[str, ast.expr | None]  # → default


@dataclass(frozen=True)
class Made:
    """An object to build, as a configuration writes it.

    >>> Made("Config", {"width": 24})
    Config(width=24)
    """

    name: str
    fields: Mapping[str, object]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.fields.items())})"


def nested(values: Mapping[str, object], keyed: bool) -> object:
    """Values by dotted name as one object within another: dicts, or namespaces.

    >>> nested({"model.width": 24, "seed": 1}, True)
    {'model': {'width': 24}, 'seed': 1}
    """
    found: dict[str, object] = {}
    for top in dict.fromkeys(name.partition(".")[0] for name in values):
        start = f"{top}."
        inside = {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}
        found[top] = nested(inside, keyed) if inside else values[top]
    return found if keyed else Made("types.SimpleNamespace", found)


def assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a statement sets: `a = 1`, `a: int = 1`, `a, b = 1, 2`, `a, b = (f() for _ in range(2))`."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    for target in targets:
        if value is None:
            continue
        if not isinstance(target, ast.Tuple | ast.List):
            yield target, value
        elif isinstance(value, ast.Tuple | ast.List):
            yield from zip(target.elts, value.elts, strict=False)
        elif isinstance(value, ast.GeneratorExp | ast.ListComp):
            yield from ((one, value.elt) for one in target.elts)


class Plain(ast.NodeTransformer):
    """What a class has put away under `self` as the argument that it was, and `config["width"]` as `config.width`.

    >>> init = ast.parse("def __init__(self, config, n):\\n    self.c = config\\n    self.m = n").body[0]
    >>> ast.unparse(Plain(init).plain(ast.parse("f(self.c['a'], self.m, self.hparams.k, config.get('b', 3))")))
    'f(config.a, n, k, config.b)'
    """

    def __init__(self, init: ast.FunctionDef) -> None:
        parameters = {one.arg for one in (*init.args.args, *init.args.kwonlyargs)}
        self.aliases = {
            target.attr: value.id
            for node in ast.walk(init)
            for target, value in assigned(node)
            if isinstance(target, ast.Attribute) and isinstance(value, ast.Name) and value.id in parameters
        }

    def plain(self, node: ast.AST) -> Any:
        """A copy in these terms."""
        return self.visit(copy.deepcopy(node))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self.aliases:
            return ast.Name(self.aliases[node.attr], node.ctx)
        return ast.Name(node.attr, node.ctx) if _is_hparams(node.value) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if not isinstance(key, str) or not isinstance(node.value, ast.Name | ast.Attribute):
            return node
        return ast.Name(key, node.ctx) if _is_hparams(node.value) else ast.Attribute(node.value, key, node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        key = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get" and isinstance(key, str):
            return ast.Attribute(node.func.value, key, ast.Load())
        return node


def _is_hparams(node: ast.expr) -> bool:
    """Whether it is what Lightning's `save_hyperparameters` makes: the arguments of `__init__` by name."""
    return isinstance(node, ast.Attribute) and node.attr == "hparams"


def bundles_of(node: ast.ClassDef, init: ast.FunctionDef, plain: Plain) -> dict[str, Bundle]:
    """The arguments of which a class reads parts as it builds its layers, and that it does not call."""
    found = {}
    for one in (*init.args.args[1:], *init.args.kwonlyargs):
        in_init = set(_reads(plain.plain(init), one.arg))
        methods = [other for other in node.body if isinstance(other, ast.FunctionDef)]
        read = [field for method in methods for field in _reads(plain.plain(method), one.arg)]
        if in_init and None not in read:
            kind = ast.unparse(one.annotation).strip("'") if one.annotation else ""
            keyed = any(_by_key(inner, one.arg) for inner in ast.walk(init))
            fields = tuple(dict.fromkeys(field for field in read if field))
            found[one.arg] = Bundle(fields, keyed, kind.rpartition(".")[2])
    return found


def _reads(node: ast.AST, name: str) -> Iterator[str | None]:
    """Names that are read of a variable, dotted where they lie deeper, in the order of the text; None for a call of it.

    >>> list(_reads(ast.parse("f(c.width, c.model.depth)"), "c"))
    ['width', 'model.depth']
    """
    called = {id(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call)}
    within = {
        id(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Attribute) and id(inner) not in called
    }
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == name:
            yield None
        if not isinstance(inner, ast.Attribute) or id(inner) in called | within or not isinstance(inner.ctx, ast.Load):
            continue
        top, _, rest = ast.unparse(inner).partition(".")
        if top == name and rest.replace(".", "").isidentifier():
            yield rest


def _by_key(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == name
