"""Which parameters the modules of other libraries multiply by: read in the source of their methods, never run.

A linear layer that a library wrote by itself holds its weight as a parameter and gives it to `F.linear`, a convolution
or a product of matrices. That is said in its methods; a table of positions, which only looks the same, is added there.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from tokenize import TokenError
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
_ASKED = {"shape", "size", "dim", "ndim", "numel", "dtype", "device", "requires_grad", "is_cuda"}  # of no value


@cache
def multiplied(kind: type) -> Mapping[str, Product]:
    """Attributes that the methods of `kind` multiply something by → how; none where there is no source to read.

    An attribute counts as it is, turned, or times what is made of numbers and other attributes; not one of whose rows
    some are taken, as of a table, nor one that its method reads in another way as well, as distances do; nor one that
    is multiplied by another attribute alone, whose zeros are none in the product.

    >>> import colorsys
    >>> multiplied(colorsys.__class__)
    {}
    """
    found: dict[str, Product] = {}
    tables: set[str] = set()
    overridden: set[str] = set()
    for base in kind.__mro__:
        if base is object or base.__module__.startswith("torch."):
            continue
        for name, method in vars(base).items():
            if name in overridden or not isinstance(method, FunctionType) or (body := _parsed(method)) is None:
                continue
            if not any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(body)):
                overridden.add(name)
            if name != "__init__":
                found, tables = _of_method(body) | found, tables | _tables(body)
    return {leaf: product for leaf, product in found.items() if leaf not in tables}


def _parsed(method: FunctionType) -> ast.FunctionDef | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
    except (OSError, TypeError, SyntaxError, ValueError, IndexError, TokenError):  # made by a program, or gone
        return None
    own = isinstance(body, ast.FunctionDef) and body.args.args and body.name == inspect.unwrap(method).__code__.co_name
    return body if own else None  # type: ignore[return-value]


def _of_method(body: ast.FunctionDef) -> dict[str, Product]:
    """
    >>> text = "def forward(s, x): return torch.mm(F.linear(x * s.a, s.b * s.gain), s.c.t()) + s.d + x @ (s.e @ s.f)"
    >>> _of_method(ast.parse(text).body[0])
    {'c': ('linear', 0), 'b': ('linear', 0), 'gain': ('linear', 0)}
    >>> _of_method(ast.parse("def forward(self, x): return torch.einsum('bi,io->bo', x, self.w)").body[0])
    {'w': ('linear', 1)}
    >>> _of_method(ast.parse("def forward(self, x): return x @ self.p.t() - self.p.norm(dim=1)").body[0])
    {}
    """
    me, nodes, local = body.args.args[0].arg, list(ast.walk(body)), _named(body)
    found: dict[str, Product] = {}
    known = {part for node in nodes for part in _asked(node)}  # where an attribute is read as it may be
    for node in nodes:
        factors = [(factor, *_attributes(factor, me, local), how) for factor, how in _factors(node, me)]
        if len(factors) > 1 and all(leaves for _, leaves, _, _ in factors):
            continue
        for factor, leaves, turned, how in factors:
            if how is not None and leaves and not (turned and how[0] == "convolution"):
                found |= dict.fromkeys(leaves, (how[0], how[1] ^ turned))
                known.update(ast.walk(factor))
    for node in nodes:
        if isinstance(node, ast.Assign) and any(_name(one) in local for one in node.targets):
            known.update(ast.walk(node.value) if _attributes(node.value, me, {})[0] else ())
    reads = [node for node in nodes if isinstance(node, ast.Attribute | ast.Name) and node not in known]
    otherwise = {leaf for node in reads if isinstance(node.ctx, ast.Load) for leaf in _attributes(node, me, local)[0]}
    return {leaf: product for leaf, product in found.items() if leaf not in otherwise}


def _named(body: ast.FunctionDef) -> dict[str, ast.expr]:
    """What names stand for that are given once, or on every branch the same attributes.

    >>> text = "def forward(s, x):\\n if s.act: w = s.w / 2\\n else: w = s.w / s.n ** 0.5\\n return x @ w"
    >>> list(_named(ast.parse(text).body[0]))
    ['w']
    """
    me, nodes = body.args.args[0].arg, list(ast.walk(body))
    written = Counter(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    values: dict[str, list[ast.expr]] = {}
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Name):
                values.setdefault(target.id, []).append(node.value)  # type: ignore[attr-defined]
    return {
        name: given[0]
        for name, given in values.items()
        if written[name] == len(given) and len({_attributes(value, me, {}) for value in given}) == 1
    }


def _factors(node: ast.AST, me: str) -> Iterator[tuple[ast.expr, Product | None]]:
    """What is multiplied in one product, and how it would be read as a weight, if it can be one."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield from zip((node.left, node.right), _sides(), strict=True)
    if not isinstance(node, ast.Call) or _is_of(node.func, me):
        return
    name, args = _name(node.func), node.args
    if name in _LAYERS:
        named = [word.value for word in node.keywords if word.arg == "weight"]
        yield from ((one, None) for one in args[:1])
        yield from ((one, _LAYERS[name]) for one in [*args[1:2], *named])
    elif name in ("matmul", "mm"):
        pair = [node.func.value, *args] if len(args) == 1 and isinstance(node.func, ast.Attribute) else args
        yield from zip(pair[:2], _sides(), strict=False)
    elif name == "addmm":
        yield from zip(args[-2:], _sides(), strict=False)
    elif name == "einsum" and len(args) == 3 and isinstance(args[0], ast.Constant):
        yield from _summed(str(args[0].value).replace(" ", ""), args[1:])


def _is_of(function: ast.expr, me: str) -> bool:
    """Whether it is a method or a layer of `me`, such as self.linear."""
    match function:
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return owner == me and name in _LAYERS
    return False


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
        case ast.BinOp(op=ast.Mult() | ast.Div() as way, left=left, right=right):
            (one, turned), (other, also) = _attributes(left, me, local), _attributes(right, me, local)
            whole = (one or _fixed(left, me)) and (other or _fixed(right, me))
            divisor = isinstance(way, ast.Div)  # no weight: there is nothing to divide by a zero
            return ((*one, *(() if divisor else other)), turned or also) if whole else ((), False)
    return (), False


def _fixed(expression: ast.expr, me: str) -> bool:
    """Whether it is a number that no call's input is part of: of numbers, attributes of `me` and what `math` makes."""
    names = [node.id for node in ast.walk(expression) if isinstance(node, ast.Name)]
    calls = [node.func for node in ast.walk(expression) if isinstance(node, ast.Call)]
    made = all(isinstance(one, ast.Attribute) and (one.attr in _ASKED or _name(one.value) == "math") for one in calls)
    return made and all(name in (me, "math") for name in names)


def _tables(body: ast.FunctionDef) -> set[str]:
    """Attributes of which rows are taken by their numbers, other than to write into them."""
    me, nodes, local = body.args.args[0].arg, list(ast.walk(body)), _named(body)
    written = {node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr.endswith("_")}
    taken = (rows for node in nodes if node not in written for rows in _taken(node))
    return {leaf for rows in taken for leaf in _attributes(rows, me, local)[0]}


def _taken(node: ast.AST) -> list[ast.expr]:
    """What rows are taken of."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return [node.value]
    if isinstance(node, ast.Call) and _name(node.func) in _TAKES_ROWS:
        return [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
    return []


def _asked(node: ast.AST) -> Iterator[ast.AST]:
    """What is looked at for something else than its values."""
    if isinstance(node, ast.Attribute) and node.attr in _ASKED:
        yield from ast.walk(node.value)
    if isinstance(node, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
        yield from ast.walk(node)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
