"""What the names in a layer's arguments were set to: `n + 1` is `(size // 8) ** 2 + 1`, where a line above says so."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from idp_deploy.surveying.definitions import Definition, last_name

DEEPEST = 4
MOST_NODES = 4_000  # of the lines above that are put in, each as often as it is named
_SUMS = (ast.BinOp, ast.Name, ast.Attribute, ast.Constant, ast.Call)


@dataclass
class Origins(ast.NodeTransformer):
    """An expression of `__init__` in terms of its arguments.

    Args:
        made: the class. classes: those of the folder, by name: parts of it may hold a number that it reads.
    """

    made: Definition
    classes: Mapping[str, Definition]
    depth: int = DEEPEST
    left: list[int] = field(default_factory=lambda: [MOST_NODES])  # one count for all that is put into one another

    def of(self, node: ast.expr) -> ast.expr:
        """A copy where names stand for something else, the expression itself where none does."""
        names = any(isinstance(inner, ast.Name | ast.Attribute) for inner in ast.walk(node))
        return self.visit(copy.deepcopy(node)) if names and self.depth else node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._set_above(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        own = isinstance(node.value, ast.Name) and node.value.id == "self"
        held = node.value if isinstance(node.value, ast.Attribute) and last_name(node.value.value) == "self" else None
        if held is not None:
            return self._of_part(node, held.attr)
        return self._set_above(node) if own else node

    def _set_above(self, node: ast.Name | ast.Attribute) -> ast.expr:
        """As the line that sets it last above the node says."""
        sets = self.made.sets.get(ast.unparse(node), {})
        last = max((line for line in sets if line < getattr(node, "lineno", 0)), default=0)
        value = sets.get(last)
        if not isinstance(value, _SUMS) or not self._affords(value):
            return node
        return Origins(self.made, self.classes, self.depth - 1, self.left).of(value)

    def _affords(self, value: ast.expr) -> bool:
        self.left[0] -= sum(1 for _ in ast.walk(value))
        return self.left[0] > 0

    def _of_part(self, node: ast.Attribute, name: str) -> ast.expr:
        """`self.embed.count`, where the class of `embed` puts it away: with what that class is given here."""
        call = self.made.layers.get(name)
        part = self.classes.get(last_name(call.func)) if call is not None else None
        value = part.put.get(node.attr) if part else None
        if part is None or call is None or value is None or self.depth < 1 or not self._affords(value):
            return node
        inside = Origins(part, self.classes, self.depth - 1, self.left).of(value)
        given = dict(zip(part.parameters, call.args, strict=False))
        given |= {word.arg: word.value for word in call.keywords if word.arg}
        return _Given({key: given.get(key, usual) for key, usual in part.parameters.items()}).visit(
            copy.deepcopy(inside)
        )


@dataclass
class _Given(ast.NodeTransformer):
    values: Mapping[str, ast.expr | None]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id) or node
