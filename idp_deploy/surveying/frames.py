"""The statements and expressions of a method, followed with shapes in place of numbers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from idp_deploy.surveying import plain
from idp_deploy.surveying.definitions import Definition, last_name
from idp_deploy.surveying.effects import OddError, Shape
from idp_deploy.surveying.functions import applied, is_function
from idp_deploy.surveying.indexing import is_whole, taken
from idp_deploy.surveying.layers import call_kind, entries_of, unwrapped
from idp_deploy.surveying.plain import MOST_ENTRIES, MOST_ROUNDS, kept
from idp_deploy.surveying.tensors import Instance, Layer, T, combined, extents_of, tensors_in

DEEPEST = 24


class Following(Protocol):
    """What a frame asks of whoever follows."""

    classes: Mapping[str, Definition]
    stored: Mapping[str, Shape]
    constants: Mapping[str, object]
    columns: dict[str, int]
    widths: dict[str, int | None]
    dark: bool
    rooms: Mapping[str, Mapping[str, None]]

    def step(self, count: int = 1) -> None:
        """Take note that so much was followed.

        Raises:
            LongError: there is no end to it.
        """

    def method(self, this: Instance, name: str, values: list[Any], words: Mapping[str, Any], depth: int) -> object:
        """What a method gives back."""

    def apply(self, layer: Layer, values: list[Any], words: Mapping[str, Any], depth: int) -> object:
        """What a layer gives back."""

    def instance(self, layer: Layer, own: Definition) -> Instance:
        """A module of the folder in its place."""

    def members(self, layer: Layer) -> list[Layer]:
        """What a list of layers holds."""

    def unknown(self) -> T:
        """A tensor of which nothing is known."""


class _ReturnError(Exception):
    def __init__(self, value: object) -> None:
        self.value = value


@dataclass
class Frame:
    """The names of one method as it is followed."""

    follower: Following
    this: Instance
    names: dict[str, Any]
    depth: int

    def run(self, body: Sequence[ast.stmt]) -> object:
        try:
            self._block(body)
        except _ReturnError as given:
            return given.value
        return None

    def _block(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            self.follower.step()
            if isinstance(node, ast.Return):
                raise _ReturnError(self.value(node.value) if node.value else None)
            if isinstance(node, ast.AugAssign):
                self.bind(node.target, self._worked(self.value(node.target), node.op, self.value(node.value)))
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                value = self.value(node.value)
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.bind(target, value)
            elif isinstance(node, ast.Expr):
                self._appended(node.value)
            elif isinstance(node, ast.For):
                for one in self.each(node.iter):
                    self.bind(node.target, one)
                    self._block(node.body)
            elif isinstance(node, ast.If):
                self._block(node.body if self._holds(node.test, node.body) else node.orelse)
            elif isinstance(node, ast.With):
                self._block(node.body)
            elif isinstance(node, ast.Raise) or (isinstance(node, ast.Assert) and not self._holds(node.test, [])):
                raise OddError
            elif isinstance(node, ast.While | ast.Try | ast.TryStar | ast.Match | ast.AsyncFor | ast.AsyncWith):
                self.follower.dark = True
                self._forget(node)

    def _holds(self, test: ast.expr, body: Sequence[ast.stmt]) -> bool:
        """Whether a test holds; one that is not known does, where that does not end in an error."""
        told = self.value(test)
        refuses = bool(body) and isinstance(body[-1], ast.Raise)
        return not refuses if told is ... or isinstance(told, T | Layer) else bool(told)

    def _forget(self, node: ast.stmt) -> None:
        """What a statement sets that is not followed is not known from there on."""
        for one in ast.walk(node):
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                self.names[one.id] = self.follower.unknown() if isinstance(self.names.get(one.id), T) else ...

    def _appended(self, node: ast.expr) -> None:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("append", "insert")
        ):
            held = self.value(node.func.value)
            if isinstance(held, list) and node.args:
                value = self.value(node.args[-1])
                if len(held) < MOST_ENTRIES:
                    held.append(value) if node.func.attr == "append" else held.insert(0, value)
                return
        self.value(node)

    def bind(self, target: ast.expr, value: object) -> None:
        """Set what a target names."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            if isinstance(value, T):
                value = applied("unbind", [value], {})
            parts = value if isinstance(value, list | tuple) else [...] * len(target.elts)
            if len(parts) != len(target.elts):
                if parts and all(one is ... or isinstance(one, int) for one in parts) and not _starred(target):
                    raise OddError  # `n, c, h, w = x.shape` of what has other axes
                parts = [...] * len(target.elts)
            for one, part in zip(target.elts, parts, strict=True):
                self.bind(one, part)

    def each(self, node: ast.expr) -> Iterator[object]:
        """The values of what a loop goes over; one that is not known where nothing tells them."""
        found = self.value(node)
        if isinstance(found, Layer):
            found = self.follower.members(found)
        elif isinstance(found, T):
            self.follower.dark = True
        yield from islice(found, MOST_ROUNDS) if isinstance(found, list | tuple | range) else [...]

    def value(self, node: ast.expr) -> Any:
        """What an expression is: a tensor, a layer, a plain value, a list of these, or `...` where nothing tells."""
        self.follower.step()
        method = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        return method(node) if method else ...

    def _of_constant(self, node: ast.Constant) -> object:
        return kept(node.value)

    def _of_namedexpr(self, node: ast.NamedExpr) -> object:
        value = self.value(node.value)
        self.bind(node.target, value)
        return value

    def _of_name(self, node: ast.Name) -> object:
        return self.names[node.id] if node.id in self.names else kept(self.follower.constants.get(node.id, ...))

    def _of_tuple(self, node: ast.Tuple | ast.List) -> object:
        found: list[object] = []
        for one in node.elts:
            value = self.value(one.value if isinstance(one, ast.Starred) else one)
            many = isinstance(one, ast.Starred) and isinstance(value, list | tuple | range)
            found += islice(value, MOST_ENTRIES) if many else [value]
        return found

    _of_list = _of_tuple

    def _of_listcomp(self, node: ast.ListComp | ast.GeneratorExp) -> object:
        found = []
        if len(node.generators) > 1 or node.generators[0].ifs:
            return ...
        for one in self.each(node.generators[0].iter):
            self.bind(node.generators[0].target, one)
            found.append(self.value(node.elt))
        return found

    _of_generatorexp = _of_listcomp

    def _of_dict(self, node: ast.Dict) -> object:
        return [self.value(one) for one in node.values]

    def _of_dictcomp(self, node: ast.DictComp) -> object:
        return self._of_listcomp(ast.ListComp(node.value, node.generators))

    def _of_ifexp(self, node: ast.IfExp) -> object:
        return self.value(node.body if self._holds(node.test, []) else node.orelse)

    def _of_compare(self, node: ast.Compare) -> object:
        left, right = self.value(node.left), self.value(node.comparators[0])
        return plain.compared(node.ops[0], left, right) if len(node.ops) == 1 else ...

    def _of_boolop(self, node: ast.BoolOp) -> object:
        values = [self.value(one) for one in node.values]
        if any(one is ... or isinstance(one, T | Layer) for one in values):
            no = isinstance(node.op, ast.And) and any(one is False or one is None for one in values)
            return False if no else ...
        found = values[0]
        for one in values[1:]:
            found = (found and one) if isinstance(node.op, ast.And) else (found or one)
        return found

    def _of_unaryop(self, node: ast.UnaryOp) -> object:
        inner = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return ... if inner is ... or isinstance(inner, T | Layer) else not inner
        return -inner if isinstance(node.op, ast.USub) and isinstance(inner, int | float) else inner

    def _of_binop(self, node: ast.BinOp) -> object:
        return self._worked(self.value(node.left), node.op, self.value(node.right))

    def _worked(self, left: object, node: ast.operator, right: object) -> object:
        if isinstance(left, T) or isinstance(right, T):
            matrix = isinstance(node, ast.MatMult)
            if matrix:
                self._multiplied(left, right)
            return combined(left, right, matrix)
        self.follower.step(len(left) // 64 if isinstance(left, list) else 0)
        return plain.counted(node, left, right)

    def _multiplied(self, left: object, right: object) -> None:
        known = isinstance(left, T) and isinstance(right, T) and left.of and right.shape is not None
        if known and isinstance(left, T) and isinstance(right, T) and right.shape and len(right.shape) > 1:
            self.follower.widths.setdefault(left.of, right.shape[-2])

    def _of_attribute(self, node: ast.Attribute) -> object:
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self._own(node.attr)
        held = self.value(node.value)
        if isinstance(held, T) and node.attr == "shape":
            return extents_of(held)
        if isinstance(held, T) and node.attr in ("T", "mT"):
            return applied("transpose", [held, -1, -2], {}) or T()
        if isinstance(held, Layer) and (own := self.follower.classes.get(call_kind(held.call))):
            return Frame(self.follower, self.follower.instance(held, own), {}, self.depth)._own(node.attr)
        if isinstance(held, Layer):  # of a ModuleDict
            return self._entry(held, node.attr)
        return ...

    def _entry(self, held: Layer, name: str) -> object:
        call = dict(entries_of(held.call)).get(name)
        return Layer(f"{held.name}.{name}", unwrapped(call), held.owner) if call is not None else ...

    def _own(self, name: str) -> object:
        """`self.name`: a layer, a parameter, or what was put there."""
        this, follower = self.this, self.follower
        if name == "training":
            return False
        call = this.definition.layers.get(name)
        if call is not None and call_kind(call) not in ("Parameter", "int", "len"):
            return Layer(f"{this.prefix}{name}", unwrapped(call), this)
        if (shape := follower.stored.get(f"{this.prefix}{name}")) is not None:
            return T(shape)
        value = this.definition.put.get(name)
        if value is not None:
            return Frame(follower, this, dict(this.given), self.depth + 1).value(value) if self.depth < DEEPEST else ...
        return kept(this.given.get(name, ...))

    def _of_subscript(self, node: ast.Subscript) -> object:
        held = self.value(node.value)
        if isinstance(held, T):
            return self._taken(held, node.slice)
        at = self._part(node.slice)
        if isinstance(held, Layer):
            if isinstance(at, str):
                return self._entry(held, at)
            held = self.follower.members(held)
        if not isinstance(held, list | tuple | range):
            return ...
        return plain.between(held, (at.start, at.stop, at.step)) if isinstance(at, slice) else plain.entry(held, at)

    def _part(self, node: ast.expr) -> Any:
        """An index, or a slice whose ends are `...` where nothing tells them."""
        if isinstance(node, ast.Slice):
            return slice(*(self.value(one) if one else None for one in (node.lower, node.upper, node.step)))
        return self.value(node)

    def _taken(self, held: T, index: ast.expr) -> T:
        nodes = index.elts if isinstance(index, ast.Tuple) else [index]
        parts = [self._part(one) for one in nodes]
        at = parts[1] if len(parts) == 2 else None
        if held.of and isinstance(at, int) and not isinstance(at, bool):
            self.follower.columns[held.of] = max(self.follower.columns.get(held.of, 0), at + 1)
            return T()
        if held.shape is None:
            return T(of=held.of if all(map(is_whole, nodes)) else "")
        told = [one if one is not ... or _is_ellipsis(node) else node for one, node in zip(parts, nodes, strict=True)]
        return T(taken(held.shape, told))

    def _of_call(self, node: ast.Call) -> object:
        values: list[Any] = self._of_tuple(ast.List(node.args))  # type: ignore[assignment]
        words = {word.arg: self.value(word.value) for word in node.keywords if word.arg}
        function, name, follower = node.func, last_name(node.func), self.follower
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self":
            if name in self.this.definition.methods:
                return follower.method(self.this, name, values, words, self.depth + 1)
        elif isinstance(function, ast.Name) and name in plain.BUILTINS and name not in self.names:
            known = [follower.members(one) if isinstance(one, Layer) else one for one in values]
            follower.step(sum(min(len(one), MOST_ENTRIES) for one in known if isinstance(one, list)) // 64)
            return plain.builtin(name, known)
        callee = self.value(function)
        if isinstance(callee, Layer):
            return follower.apply(callee, values, words, self.depth + 1)
        if isinstance(function, ast.Attribute):
            held = self.value(function.value)
            if isinstance(held, Layer) and (own := follower.classes.get(call_kind(held.call))):
                return follower.method(follower.instance(held, own), name, values, words, self.depth + 1)
            if isinstance(held, Layer) and name in ("values", "children"):
                return follower.members(held)
            if isinstance(held, T):
                if name in ("size", "dim", "ndimension"):
                    extents = extents_of(held)
                    at = values[0] if values else words.get("dim")
                    if not isinstance(extents, list):
                        return ...
                    if name != "size":
                        return len(extents)
                    inside = isinstance(at, int) and -len(extents) <= at < len(extents)
                    return extents if at is None else extents[at] if inside else ...
                values = [held, *values]
            elif isinstance(held, list) and name == "pop":
                at = values[0] if values else -1
                return held.pop(at) if isinstance(at, int) and -len(held) <= at < len(held) else ...
        if name in ("matmul", "mm", "bmm") and len(values) > 1:
            self._multiplied(values[0], values[1])
        found = applied(name, values, words) if is_function(name) else None
        if found is not None:
            return found
        made = next(tensors_in([*values, *words.values()]), None)
        if made is None:
            return ...
        if isinstance(function, ast.Attribute) and last_name(function.value) == "self" and not self._weighs(name):
            return made  # an activation or the like, chosen as it was built
        return follower.unknown()

    def _weighs(self, name: str) -> bool:
        return f"{self.this.prefix}{name}" in self.follower.rooms


def _starred(target: ast.Tuple | ast.List) -> bool:
    return any(isinstance(one, ast.Starred) for one in target.elts)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
