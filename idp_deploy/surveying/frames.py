"""The statements and expressions of a method, followed with shapes in place of numbers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from idp_deploy.surveying.bundles import assigned
from idp_deploy.surveying.definitions import Definition, last_name
from idp_deploy.surveying.effects import Shape
from idp_deploy.surveying.functions import applied, is_function
from idp_deploy.surveying.layers import call_kind, entries_of, unwrapped
from idp_deploy.surveying.tensors import Instance, Layer, T, combined, extents_of, tensors_in

MOST_ROUNDS, DEEPEST = 64, 24
_PLAIN: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


class Following(Protocol):
    """What a frame asks of whoever follows."""

    classes: Mapping[str, Definition]
    stored: Mapping[str, Shape]
    constants: Mapping[str, object]
    columns: dict[str, int]
    widths: dict[str, int | None]
    dark: bool

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
            if isinstance(node, ast.Return):
                raise _ReturnError(self.value(node.value) if node.value else None)
            if isinstance(node, ast.AugAssign):
                self.bind(node.target, self.value(ast.BinOp(_loaded(node.target), node.op, node.value)))
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
                self._block(node.body if self.value(node.test) not in (False, None, 0) else node.orelse)
            elif isinstance(node, ast.With):
                self._block(node.body)
            elif isinstance(node, ast.While | ast.Try):
                self.follower.dark = True

    def _appended(self, node: ast.expr) -> None:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("append", "insert")
        ):
            held = self.value(node.func.value)
            if isinstance(held, list) and node.args:
                value = self.value(node.args[-1])
                held.append(value) if node.func.attr == "append" else held.insert(0, value)
                return
        self.value(node)

    def bind(self, target: ast.expr, value: object) -> None:
        """Set what a target names."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = value if isinstance(value, list | tuple) else [...] * len(target.elts)
            parts = parts if len(parts) == len(target.elts) else [...] * len(target.elts)
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
        method = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        return method(node) if method else ...

    def _of_constant(self, node: ast.Constant) -> object:
        return node.value

    def _of_name(self, node: ast.Name) -> object:
        return self.names.get(node.id, self.follower.constants.get(node.id, ...))

    def _of_tuple(self, node: ast.Tuple | ast.List) -> object:
        found: list[object] = []
        for one in node.elts:
            value = self.value(one.value if isinstance(one, ast.Starred) else one)
            found += value if isinstance(one, ast.Starred) and isinstance(value, list | tuple) else [value]
        return found

    _of_list = _of_tuple

    def _of_listcomp(self, node: ast.ListComp | ast.GeneratorExp) -> object:
        found = []
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
        return self.value(node.body if self.value(node.test) not in (False, None, 0) else node.orelse)

    def _of_compare(self, node: ast.Compare) -> object:
        left, right = self.value(node.left), self.value(node.comparators[0])
        if isinstance(node.ops[0], ast.Is | ast.IsNot) and right is None and left is not ...:
            return (left is None) == isinstance(node.ops[0], ast.Is)
        if isinstance(node.ops[0], ast.Eq | ast.NotEq) and isinstance(left, int | str) and isinstance(right, int | str):
            return (left == right) == isinstance(node.ops[0], ast.Eq)
        return ...

    def _of_unaryop(self, node: ast.UnaryOp) -> object:
        inner = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return ... if inner is ... else not inner
        return -inner if isinstance(node.op, ast.USub) and isinstance(inner, int | float) else inner

    def _of_binop(self, node: ast.BinOp) -> object:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(left, T) or isinstance(right, T):
            matrix = isinstance(node.op, ast.MatMult)
            self._multiplied(left, right) if matrix else None
            return combined(left, right, matrix)
        if isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(left, list) and isinstance(node.op, ast.Mult):
            return left * right if isinstance(right, int) and 0 <= right <= MOST_ROUNDS else left
        usable = isinstance(left, int | float) and isinstance(right, int | float) and type(node.op) in _PLAIN
        try:
            return _PLAIN[type(node.op)](left, right) if usable else ...
        except (ZeroDivisionError, OverflowError):
            return ...

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
        for node in ast.walk(this.definition.init):
            for target, value in assigned(node):
                if isinstance(target, ast.Attribute) and target.attr == name and last_name(target.value) == "self":
                    return (
                        Frame(follower, this, dict(this.given), self.depth + 1).value(value)
                        if self.depth < DEEPEST
                        else ...
                    )
        return this.given.get(name, ...)

    def _of_subscript(self, node: ast.Subscript) -> object:
        held = self.value(node.value)
        if isinstance(held, Layer):
            members = self.follower.members(held)
            at = self.value(node.slice)
            if isinstance(at, str):
                return self._entry(held, at)
            if isinstance(node.slice, ast.Slice):
                return members[
                    slice(*(self._bound(one) for one in (node.slice.lower, node.slice.upper, node.slice.step)))
                ]
            return members[at] if isinstance(at, int) and -len(members) <= at < len(members) else ...
        if isinstance(held, list | tuple):
            if isinstance(node.slice, ast.Slice):
                return held[slice(*(self._bound(one) for one in (node.slice.lower, node.slice.upper, node.slice.step)))]
            at = self.value(node.slice)
            return held[at] if isinstance(at, int) and -len(held) <= at < len(held) else ...
        return self._taken(held, node.slice) if isinstance(held, T) else ...

    def _bound(self, node: ast.expr | None) -> int | None:
        value = self.value(node) if node else None
        return value if isinstance(value, int) else None

    def _taken(self, held: T, index: ast.expr) -> T:
        """`x[:, 0]`, `x[..., None]`, `x[:, :n]`."""
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        at = self.value(parts[1]) if len(parts) == 2 and not isinstance(parts[1], ast.Slice) else ...
        if held.of and isinstance(at, int) and not isinstance(at, bool):
            self.follower.columns[held.of] = max(self.follower.columns.get(held.of, 0), at + 1)
            return T()
        if held.shape is None:
            new = all(
                isinstance(one, ast.Slice) or (isinstance(one, ast.Constant) and one.value in (None, ...))
                for one in parts
            )
            return T(of=held.of if new and len(parts) > 0 else "")
        left, found = list(held.shape), list[int | None]()
        for place, one in enumerate(parts):
            if isinstance(one, ast.Slice):
                whole = one.lower is None and one.upper is None and one.step is None
                extent = left.pop(0) if left else None
                found.append(extent if whole else self._sliced(one, extent))
            elif isinstance(one, ast.Constant) and one.value is None:
                found.append(1)
            elif isinstance(one, ast.Constant) and one.value is ...:
                after = sum(not (isinstance(p, ast.Constant) and p.value is None) for p in parts[place + 1 :])
                found += left[: len(left) - after]
                left = left[len(left) - after :]
            else:
                if left:
                    left.pop(0)
                if not isinstance(self.value(one), int):
                    return T()
        return T((*found, *left))

    def _sliced(self, node: ast.Slice, extent: int | None) -> int | None:
        if extent is None:
            return None
        ends = [self._bound(one) for one in (node.lower, node.upper, node.step)]
        told = all(
            one is None or bound is not None
            for one, bound in zip((node.lower, node.upper, node.step), ends, strict=True)
        )
        return len(range(extent)[slice(*ends)]) if told else None

    def _of_call(self, node: ast.Call) -> object:
        values: list[Any] = self._of_tuple(ast.List(node.args))  # type: ignore[assignment]
        words = {word.arg: self.value(word.value) for word in node.keywords if word.arg}
        function, name, follower = node.func, last_name(node.func), self.follower
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self":
            if name in self.this.definition.methods:
                return follower.method(self.this, name, values, words, self.depth + 1)
        elif isinstance(function, ast.Name) and name in _BUILTIN:
            return self._builtin(name, values)
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
                return held.pop(*[one for one in values if isinstance(one, int)]) if held else ...
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
        return any(one.startswith(f"{self.this.prefix}{name}.") for one in self.follower.stored)

    def _builtin(self, name: str, values: list[Any]) -> object:
        first = values[0] if values else ...
        if isinstance(first, Layer):
            first = self.follower.members(first)
        if name == "range":
            return range(*values) if all(isinstance(one, int) for one in values) and values else ...
        if name in ("int", "round"):
            return int(first) if isinstance(first, int | float) else ...
        if not isinstance(first, list | tuple | range):
            return ...
        if name == "zip":
            lists = [self.follower.members(one) if isinstance(one, Layer) else one for one in values]
            return (
                [list(t) for t in zip(*lists, strict=False)]
                if all(isinstance(one, list | tuple | range) for one in lists)
                else ...
            )
        if name == "sum":
            total = first[0] if first else ...
            for one in first[1:]:
                total = combined(total, one, False) if isinstance(total, T) or isinstance(one, T) else ...
            return total
        return {
            "len": lambda: len(first),
            "list": lambda: list(first),
            "tuple": lambda: list(first),
            "reversed": lambda: list(reversed(first)),
            "enumerate": lambda: [[at, one] for at, one in enumerate(first)],
        }[name]()


_BUILTIN = frozenset(("range", "int", "round", "zip", "sum", "len", "list", "tuple", "reversed", "enumerate"))


def _loaded(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body
