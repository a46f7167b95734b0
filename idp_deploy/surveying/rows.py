"""Layers in a row: what the weights of a list say of how many there are, and of the sizes that they were made from."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from idp_deploy.surveying.bundles import assigned
from idp_deploy.surveying.definitions import last_name
from idp_deploy.surveying.layers import KINDS, Shape, argument, call_kind, named, solved


@dataclass(frozen=True)
class Loop:
    """Layers that are made once for each value of something."""

    target: ast.expr
    over: ast.expr
    pieces: tuple[ast.Call | Loop, ...]

    @property
    def calls(self) -> tuple[ast.Call, ...]:
        return tuple(one for one in self.pieces if isinstance(one, ast.Call))

    @property
    def nested(self) -> bool:
        """Whether it holds a loop of its own, so that its rounds need not be alike."""
        return any(isinstance(one, Loop) for one in self.pieces)


Piece = ast.Call | Loop


def pieces_of(call: ast.Call, init: ast.AST) -> list[Piece]:
    """What a ModuleList or Sequential holds, in order; a list that is built line by line is followed through `init`."""
    found: list[Piece] = []
    for node in call.args:
        inner = node.value if isinstance(node, ast.Starred) else node
        if isinstance(inner, ast.Name):
            found += _built(inner.id, init)
        elif isinstance(inner, ast.List | ast.Tuple):
            found += [one for one in inner.elts if isinstance(one, ast.Call)]
        elif isinstance(inner, ast.ListComp | ast.GeneratorExp):
            found += _comprehended(inner)
        elif isinstance(inner, ast.Call):
            found.append(inner)
    return found


def appended_to(name: str, init: ast.AST) -> list[Piece]:
    """What is appended to `self.name`."""
    return _built(f"self.{name}", init)


def _comprehended(node: ast.ListComp | ast.GeneratorExp) -> list[Piece]:
    calls = (node.elt,) if isinstance(node.elt, ast.Call) else ()
    return [Loop(node.generators[0].target, node.generators[0].iter, calls)] if len(node.generators) == 1 else []


def _built(name: str, init: ast.AST) -> list[Piece]:
    """`layers = [a]`, `layers.append(b)`, `layers += [c, d]`, `layers.extend((e, f))`, by themselves and in loops."""
    found: list[Piece] = []
    for node in ast.iter_child_nodes(init):
        if isinstance(node, ast.For):
            inner = _built(name, node)
            found += [Loop(node.target, node.iter, tuple(inner))] if inner else []
        elif isinstance(node, ast.If | ast.With):
            found += _built(name, node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value:
            pairs = [(node.target, node.value)] if isinstance(node, ast.AugAssign) else assigned(node)
            found += [one for target, value in pairs if ast.unparse(target) == name for one in _listed(value)]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == name and call.args:
                found += _listed(ast.List(call.args[:1]) if call.func.attr == "append" else call.args[0])
    return found


def _listed(node: ast.expr) -> list[Piece]:
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return _comprehended(node)
    return [one for one in getattr(node, "elts", ()) if isinstance(one, ast.Call)]


Heard = Callable[[ast.Call, Mapping[str, Shape]], Mapping[str, object]]  # a part and its shapes → names and values


def told(
    pieces: Sequence[Piece], stored: Mapping[int, Mapping[str, Shape]], init: ast.AST, heard: Heard
) -> dict[str, object]:
    """Arguments that a row tells.

    Args:
        stored: place in the row → shapes of what is stored there, by name. heard: what a layer that is no single one
            says of what it was given.
    """
    loops = [(at, piece) for at, piece in enumerate(pieces) if isinstance(piece, Loop)]
    weighing = [_weighs(piece) for piece in pieces]
    rows = [stored[place] for place in sorted(stored)]
    if len(loops) != 1 or loops[0][1].nested or not stored:
        leading = takewhile(lambda piece: not isinstance(piece, Loop), pieces)
        weighed = [one for one in leading if isinstance(one, ast.Call) and _weighs(one)]
        return {n: v for call, shapes in zip(weighed, rows, strict=False) for n, v in _sizes(call, shapes, {}).items()}
    at, loop = loops[0]
    before, after = sum(weighing[:at]), sum(weighing[at + 1 :])
    inside, each = rows[before : len(rows) - after], weighing[at]
    if not each or len(inside) % each:
        return {}
    rounds = [inside[i : i + each] for i in range(0, len(inside), each)]
    once = [piece for piece in (*pieces[:at], *pieces[at + 1 :]) if isinstance(piece, ast.Call) and _weighs(piece)]
    found: dict[str, object] = {}
    for call, shapes in zip(once, (*rows[:before], *rows[len(rows) - after :]), strict=True):
        found |= _sizes(call, shapes, {})
    first = dict(pair for node in reversed(list(ast.walk(init))) for pair in assigned(node))
    starts = {target.id: value for target, value in first.items() if isinstance(target, ast.Name)}
    weighed = [call for call in loop.calls if _weighs(call)]
    if rounds and not before:
        found |= _sizes(weighed[0], rounds[0][0], starts)
        for name, value in heard(weighed[0], rounds[0][0]).items():
            pair = solved(starts[name], value) if name in starts and isinstance(value, int) else None
            found |= dict([pair]) if pair else {}
    for node, value in _values(loop, rounds, heard):
        if isinstance(node, ast.Name) and isinstance(value, list):
            found |= _distributed(node, value, init)
        elif isinstance(value, list) and (name := named(node)):
            found[name] = value
        elif isinstance(value, int) and (pair := solved(node, value)):
            found[pair[0]] = pair[1]
    return found


def _sizes(call: ast.Call, shapes: Mapping[str, Shape], starts: Mapping[str, ast.expr]) -> dict[str, object]:
    """Arguments that one layer tells.

    Args:
        starts: variables → what they are set to first; where given, those alone are looked at.
    """
    kind = KINDS.get(call_kind(call))
    found: dict[str, object] = {}
    for key, (parameter, axis) in kind.sizes.items() if kind else ():
        node, shape = argument(call, kind, key) if kind else None, shapes.get(parameter, ())
        node = starts.get(node.id) if starts and isinstance(node, ast.Name) else None if starts else node
        if node is not None and len(shape) > axis and (pair := solved(node, shape[axis])):
            found[pair[0]] = pair[1]
    return found


def _weighs(piece: Piece) -> int:
    """How many of its layers store something: those of torch that are none of `KINDS` are taken to have no weights."""
    if isinstance(piece, Loop):
        return sum(map(_weighs, piece.pieces))
    foreign = isinstance(piece.func, ast.Attribute) and last_name(piece.func.value) in ("nn", "torch")
    within = call_kind(piece) in ("ModuleList", "ModuleDict", "Sequential")
    return int(within or call_kind(piece) in KINDS or not (foreign or call_kind(piece) in _WEIGHTLESS))


_WEIGHTLESS = {"ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "LeakyReLU", "Dropout", "Flatten", "MaxPool2d", "AvgPool2d"}


def _values(
    loop: Loop, rounds: Sequence[Sequence[Mapping[str, Shape]]], heard: Heard
) -> Iterator[tuple[ast.expr, int | list[int]]]:
    """(expression, what it must have been): of what a loop goes over."""
    over, target = loop.over, loop.target
    if isinstance(over, ast.Call) and last_name(over.func) == "enumerate" and isinstance(target, ast.Tuple):
        over, target = over.args[0], target.elts[1]
    called = last_name(over.func) if isinstance(over, ast.Call) else ""
    arguments = over.args if isinstance(over, ast.Call) else []
    if called == "range" and len(arguments) == 1:
        yield arguments[0], len(rounds)
    elif called in ("zip", "pairwise") and isinstance(target, ast.Tuple) and len(target.elts) == 2:
        inner = {ast.unparse(node.value if isinstance(node, ast.Subscript) else node): node for node in arguments}
        first, second = (_given(loop, rounds, one, heard) for one in target.elts)
        if len(inner) == 1 and first and second and first[1:] == second[:-1]:
            node = next(iter(inner.values()))
            yield (node.value if isinstance(node, ast.Subscript) else node), [first[0], *second]
    elif isinstance(over, ast.Name | ast.Attribute) and (values := _given(loop, rounds, target, heard)):
        yield over, values


def _given(loop: Loop, rounds: Sequence[Sequence[Mapping[str, Shape]]], target: ast.expr, heard: Heard) -> list[int]:
    """What a loop's variable was in each round, by the first layer that was given it as it is."""
    weighing = [call for call in loop.calls if _weighs(call)]
    for place, call in enumerate(weighing):
        kind = KINDS.get(call_kind(call))
        for key, (parameter, axis) in kind.sizes.items() if kind else ():
            node = argument(call, kind, key) if kind else None
            shapes = [stored[place].get(parameter, ()) for stored in rounds]
            if node is not None and ast.unparse(node) == ast.unparse(target) and all(len(s) > axis for s in shapes):
                return [shape[axis] for shape in shapes]
        name = ast.unparse(target)
        values = [] if kind else [heard(call, stored[place]).get(name) for stored in rounds]
        known = [value for value in values if isinstance(value, int)]
        if known and len(known) == len(rounds):
            return known
    return []


def _distributed(node: ast.Name, values: list[int], init: ast.AST) -> dict[str, object]:
    """A list's values, or those of the arguments that it was put together from: `[inside, *hidden, outside]`."""
    for inner in ast.walk(init):
        if isinstance(inner, ast.Assign) and node.id in map(ast.unparse, inner.targets):
            parts = list(_summands(inner.value))
            many = [at for at, (_, starred) in enumerate(parts) if starred]
            if len(many) != 1 or len(parts) - 1 > len(values):
                return {}
            at, after = many[0], len(parts) - 1 - many[0]
            ends = [*values[:at], values[at : len(values) - after], *values[len(values) - after :]]
            pairs = zip((named(one) for one, _ in parts), ends, strict=True)
            return {name: value for name, value in pairs if name}
    return {node.id: values}


def _summands(node: ast.expr) -> Iterator[tuple[ast.expr, bool]]:
    """(expression, whether it is a list of its own) of `[a, *b]`, `[a] + list(b) + [c]`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _summands(node.left)
        yield from _summands(node.right)
    elif isinstance(node, ast.List | ast.Tuple):
        yield from ((one.value, True) if isinstance(one, ast.Starred) else (one, False) for one in node.elts)
    elif isinstance(node, ast.Call) and last_name(node.func) in ("list", "tuple") and node.args:
        yield node.args[0], True
    else:
        yield node, True
