"""A class with what it has of others in its folder: methods, and layers that `super().__init__(…)` makes."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from copy import deepcopy

from idp_deploy.surveying.definitions import is_module, last_name


def inherited(
    node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], within: frozenset[str] = frozenset()
) -> ast.ClassDef:
    """The class as if it stood alone; itself where it is made from none of these.

    >>> base = ast.parse("class A:\\n def __init__(self, n): self.fc = Linear(n, 2)\\n def forward(self): ...").body[0]
    >>> node = ast.parse("class B(A):\\n def __init__(self, m):\\n  super().__init__(2 * m)").body[0]
    >>> print(ast.unparse(inherited(node, {"A": base})))
    class B(A):
    <BLANKLINE>
        def __init__(self, m):
            self.fc = Linear(2 * m, 2)
    <BLANKLINE>
        def forward(self):
            ...
    """
    within |= {node.name}
    names = [name for name in map(last_name, node.bases) if name in classes and name not in within]
    if not names:
        return node
    body: list[ast.stmt] = list(node.body)
    for name in names:
        theirs = inherited(classes[name], classes, within).body
        body = [_begun(one, _init(theirs), name) if one is _init(body) else one for one in body]
        own = {one.name for one in body if isinstance(one, ast.FunctionDef)}
        methods = [one for one in theirs if isinstance(one, ast.FunctionDef)]
        body = [*(one for one in theirs if one not in methods), *body, *(m for m in methods if m.name not in own)]
    whole = ast.ClassDef(node.name, node.bases, node.keywords, body, node.decorator_list)
    return ast.copy_location(whole, node)


def alone(tree: ast.Module, classes: Mapping[str, ast.ClassDef]) -> ast.Module:
    """A file with every module in it as if that stood alone."""
    body = [
        inherited(one, classes) if isinstance(one, ast.ClassDef) and is_module(one, classes, set()) else one
        for one in tree.body
    ]
    return ast.Module(body, tree.type_ignores)


def _init(body: Sequence[ast.stmt]) -> ast.FunctionDef | None:
    return next((one for one in body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)


def _begun(own: ast.stmt, theirs: ast.FunctionDef | None, base: str) -> ast.stmt:
    """An `__init__` with that of its base in the place where it is called, its arguments put in."""
    if theirs is None or not isinstance(own, ast.FunctionDef):
        return own
    for place, line in enumerate(own.body):
        call = line.value if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) else None
        if call is None or (given := _given(call, base)) is None:
            continue
        parameters, defaults = _parameters(theirs.args)
        values = dict(zip(parameters, given, strict=False))
        values |= {word.arg: word.value for word in call.keywords if word.arg}
        handed = any(word.arg is None for word in call.keywords)  # `**kwargs`, which may bring any that is left
        left = [name for name in parameters if name not in values]
        if not handed:
            values = {name: node for name in left if (node := defaults[name]) is not None} | values
        made = [_Put(values).visit(deepcopy(one)) for one in theirs.body]
        arguments = deepcopy(own.args)
        for name in left if handed else ():
            arguments.kwonlyargs.append(ast.arg(name))
            arguments.kw_defaults.append(defaults[name])
        body = [*own.body[:place], *made, *own.body[place + 1 :]]
        whole = ast.FunctionDef(own.name, arguments, body, own.decorator_list, own.returns)
        return ast.copy_location(whole, own)
    return own


def _given(call: ast.Call, base: str) -> list[ast.expr] | None:
    """What `super().__init__(…)` or `Base.__init__(self, …)` is given by position; None of any other call."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "__init__":
        return None
    owner = call.func.value
    if isinstance(owner, ast.Call) and last_name(owner.func) == "super":
        return call.args
    return call.args[1:] if last_name(owner) == base else None


def _parameters(arguments: ast.arguments) -> tuple[list[str], dict[str, ast.expr | None]]:
    """Names without `self`, and their defaults."""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    filled = [None] * (len(names) - len(arguments.defaults)) + list(arguments.defaults)
    defaults: dict[str, ast.expr | None] = dict(zip(names[1:], filled[1:], strict=True))
    defaults |= dict(zip((one.arg for one in arguments.kwonlyargs), arguments.kw_defaults, strict=True))
    return list(defaults), defaults


class _Put(ast.NodeTransformer):
    """Expressions in the place of names."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return deepcopy(self.values[node.id]) if node.id in self.values and isinstance(node.ctx, ast.Load) else node
