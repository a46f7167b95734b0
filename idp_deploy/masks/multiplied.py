"""Which parameters the modules of other libraries multiply by: read in the source of their methods, never run.

A linear layer that a library wrote by itself holds its weight as a parameter and gives it to `F.linear`, a convolution
or a product of matrices. That is said in its methods; a table of positions, which only looks the same, is added there.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from types import FunctionType
from typing import Literal

Product = tuple[Literal["linear", "convolution"], int]  # what reads the weight, and the weight's output axis
_Local = Mapping[str, ast.expr]

# functions that take the weight second, or by its name
_LAYERS: Mapping[str, Product] = {
    "linear": ("linear", 0),
    **{f"conv{n}d": ("convolution", 0) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ("convolution", 1) for n in (1, 2, 3)},
}  # fmt: skip
_TURNS = {"t", "T", "mT", "transpose", "swapaxes", "permute"}
_KEEPS = {"to", "type", "type_as", "float", "contiguous", "data"}
_TAKES_ROWS = {"embedding", "embedding_bag", "index_select", "gather"}


@cache
def multiplied(kind: type) -> Mapping[str, Product]:
    """Attributes that the methods of `kind` multiply something by → how; none where there is no source to read.

    An attribute counts as it is, turned, or times what is made of numbers and other attributes; not one of whose rows
    some are taken, as of a table, nor one that is multiplied by another attribute alone, whose zeros are none in the
    product.

    >>> import colorsys
    >>> multiplied(colorsys.__class__)
    {}
    """
    found: dict[str, Product] = {}
    for base in kind.__mro__:
        if base is object or base.__module__.startswith("torch."):
            continue
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and name != "__init__" and (body := _parsed(method)):
                found = _of_method(body) | found
    return found


def _parsed(method: FunctionType) -> ast.FunctionDef | None:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):  # made by a program, or its file is gone
        return None
    return body if isinstance(body, ast.FunctionDef) and body.args.args else None


def _of_method(body: ast.FunctionDef) -> dict[str, Product]:
    """
    >>> text = "def forward(s, x): return torch.mm(F.linear(x * s.a, s.b * s.gain), s.c.t()) + s.d + x @ (s.e @ s.f)"
    >>> _of_method(ast.parse(text).body[0])
    {'c': ('linear', 0), 'b': ('linear', 0), 'gain': ('linear', 0)}
    >>> _of_method(ast.parse("def forward(self, x): return torch.einsum('bi,io->bo', x, self.w)").body[0])
    {'w': ('linear', 1)}
    """
    me, nodes = body.args.args[0].arg, list(ast.walk(body))
    local = _named(nodes, me)
    found: dict[str, Product] = {}
    for node in nodes:
        factors = [(_attributes(factor, me, local), how) for factor, how in _factors(node)]
        if len(factors) > 1 and all(leaves for (leaves, _), _ in factors):
            continue
        for (leaves, turned), (kind, axis) in factors:
            found |= dict.fromkeys(leaves, (kind, axis ^ turned))
    tables = {leaf for node in nodes for rows in _taken(node) for leaf in _attributes(rows, me, local)[0]}
    return {leaf: product for leaf, product in found.items() if leaf not in tables}


def _named(nodes: list[ast.AST], me: str) -> dict[str, ast.expr]:
    """What names stand for that are given once, or on every branch the same attributes.

    >>> text = "if self.act: w = self.w / 2\\nelse: w = self.w / self.n ** 0.5"
    >>> list(_named(list(ast.walk(ast.parse(text))), "self"))
    ['w']
    """
    written = [name.id for name in nodes if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
    values: dict[str, list[ast.expr]] = {}
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Name):
                values.setdefault(target.id, []).append(node.value)  # type: ignore[attr-defined]
    return {
        name: given[0]
        for name, given in values.items()
        if written.count(name) == len(given) and len({_attributes(value, me, {}) for value in given}) == 1
    }


def _factors(node: ast.AST) -> Iterator[tuple[ast.expr, Product]]:
    """What could be a weight in one product, and how it would be read."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield from zip((node.left, node.right), _sides(), strict=True)
    if not isinstance(node, ast.Call):
        return
    name, args = _name(node.func), node.args
    if name in _LAYERS:
        named = [word.value for word in node.keywords if word.arg == "weight"]
        yield from ((one, _LAYERS[name]) for one in [*args[1:2], *named])
    elif name in ("matmul", "mm"):
        pair = [node.func.value, *args] if len(args) == 1 and isinstance(node.func, ast.Attribute) else args
        yield from zip(pair[:2], _sides(), strict=False)
    elif name == "addmm":
        yield from zip(args[-2:], _sides(), strict=False)
    elif name == "einsum" and len(args) == 3 and isinstance(args[0], ast.Constant):
        yield from _summed(str(args[0].value).replace(" ", ""), args[1:])


def _sides() -> tuple[Product, Product]:
    return ("linear", 0), ("linear", 1)


def _summed(equation: str, args: list[ast.expr]) -> Iterator[tuple[ast.expr, Product]]:
    terms, _, result = equation.partition("->")
    sides = terms.split(",")
    for own, other, arg in zip(sides, reversed(sides), args, strict=False):
        kept = [axis for axis, letter in enumerate(own) if letter in result and letter not in other]
        gone = [letter for letter in own if letter in other and letter not in result]
        if len(own) == 2 and len(kept) == len(gone) == 1:
            yield arg, ("linear", kept[0])


def _attributes(expression: ast.expr, me: str, local: _Local) -> tuple[tuple[str, ...], bool]:
    """The attributes of `me` that the expression is made of by factors alone, and whether it is turned around."""
    match expression:
        case ast.Name(id=name) if name in local:
            return _attributes(local[name], me, {})
        case ast.Attribute(value=ast.Name(id=owner), attr=leaf) if owner == me:
            return (leaf,), False
        case ast.Attribute(value=inner, attr=way) | ast.Call(func=ast.Attribute(value=inner, attr=way)):
            leaves, turned = _attributes(inner, me, local) if way in _TURNS | _KEEPS else ((), False)
            return leaves, turned ^ (way in _TURNS)
        case ast.BinOp(op=ast.Mult() | ast.Div(), left=left, right=right):
            (one, turned), (other, also) = _attributes(left, me, local), _attributes(right, me, local)
            whole = (one or _fixed(left, me)) and (other or _fixed(right, me))
            return ((*one, *other), turned or also) if whole else ((), False)
    return (), False


def _fixed(expression: ast.expr, me: str) -> bool:
    """Whether no call's input is part of it: numbers, attributes of `me`, and what `math` makes of them."""
    return all(name.id in (me, "math") for name in ast.walk(expression) if isinstance(name, ast.Name))


def _taken(node: ast.AST) -> list[ast.expr]:
    """What rows are taken of by their numbers."""
    if isinstance(node, ast.Subscript):
        return [node.value]
    if isinstance(node, ast.Call) and _name(node.func) in _TAKES_ROWS:
        return [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
    return []


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
