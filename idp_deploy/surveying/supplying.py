"""Modules that a module is given: `Model(backbone, head)`, whose parts are made elsewhere in the folder.

self.head = head, and weights below `head.` ──▶ the class that `Model(…, Head(…))` names, else the one that fits them
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from idp_deploy.surveying.agreeing import agreement, handed_on
from idp_deploy.surveying.definitions import Definition, last_name
from idp_deploy.surveying.layers import Shape
from idp_deploy.surveying.recipes import Recipe, recipe
from idp_deploy.surveying.sources import Found

FITS = 0.9  # share of names that agree, from which a class is taken for what is given
DEEPEST = 3


@dataclass(frozen=True)
class Part:
    """A module that another is given as an argument."""

    definition: Definition  # with the layers that it is given itself
    bound: Mapping[str, object]  # its arguments, as the weights tell them
    node: ast.Call | None  # as the code makes it
    parts: Mapping[str, Part]  # that it is given itself
    recipe: Recipe | None = None  # what a registry builds it of, where it is handed over as that


def parts_given(one: Definition, names: Mapping[str, Shape], found: Found, depth: int = DEEPEST) -> dict[str, Part]:
    """By argument, the modules whose weights lie where a class puts what it is given.

    Args:
        names: shapes of the weights, as the class calls them.
    """
    parts = {}
    for attribute, argument in (*one.handed.items(), *one.built.items()):
        start = f"{attribute}."
        inside = {key.removeprefix(start): shape for key, shape in names.items() if key.startswith(start)}
        if not inside or not depth or (attribute in one.layers and attribute not in one.built):
            continue
        if attribute in one.built:
            part = _as_built(one, argument, inside, found, depth)
        else:
            part = _as_called(one, argument, inside, found, depth) or _alone(one, inside, found, depth)
        if part is not None:
            parts[argument] = part
    return parts


def with_parts(one: Definition, parts: Mapping[str, Part]) -> Definition:
    """A class with what it is given among its layers."""
    made = {argument: _call(part) for argument, part in parts.items()}
    given = {**one.handed, **one.built}
    layers = {attribute: made[argument] for attribute, argument in given.items() if argument in made}
    names = {part.definition.name for part in parts.values()}
    return replace(one, layers={**one.layers, **layers}, parts=one.parts | names) if parts else one


def passed_through(
    call: ast.Call | None, made: Definition, parts: Mapping[str, Part], found: Found
) -> dict[str, object]:
    """The arguments of a factory, `width` of `return Model(Backbone(2 * width))`, by those of its parts."""
    bound: dict[str, object] = {}
    for argument, node in _given(call, made) if call is not None else ():
        part, own = parts.get(argument), _as_call(node, found)
        if part is not None and own is not None and last_name(own.func) == part.definition.name:
            bound = handed_on(own, part.definition, part.bound) | bound
    return bound


def every(parts: Mapping[str, Part]) -> Iterator[Definition]:
    """The parts, and those that they are given."""
    for part in parts.values():
        yield part.definition
        yield from every(part.parts)


def _call(part: Part) -> ast.Call:
    values = {name: ast.Constant(value) for name, value in part.bound.items() if isinstance(value, int | float | str)}
    words = [ast.keyword(name, value) for name, value in values.items() if name in part.definition.parameters]
    return ast.Call(ast.Name(part.definition.name), [], words)


def _given(call: ast.Call, made: Definition) -> Iterator[tuple[str, ast.expr]]:
    yield from zip(made.parameters, call.args, strict=False)
    yield from ((word.arg, word.value) for word in call.keywords if word.arg)


def _as_call(node: ast.expr, found: Found) -> ast.Call | None:
    """`Head(8)`, or `head` where that is set to such a call."""
    node = found.assigned.get(node.id, node) if isinstance(node, ast.Name) else node
    return node if isinstance(node, ast.Call) else None


def _as_built(one: Definition, argument: str, inside: Mapping[str, Shape], found: Found, depth: int) -> Part | None:
    """As a configuration names it that a registry builds the class of: the first that says what the weights do."""
    likely: list[tuple[int, int, Part]] = []
    for whole in found.recipes.get(one.name, ()):
        inner = recipe(whole.arguments.get(argument))
        kind = found.registered.get(inner.kind) if inner else None
        made = next((other for other in found.modules if other.is_class and other.name == kind), None)
        score, part = _fitted(made, None, inside, found, depth) if made else (0.0, None)
        if inner and part is not None and score >= FITS:
            likely.append((_contradicted(inner, part), len(likely), replace(part, recipe=inner)))
    return min(likely)[2] if likely else None


def _contradicted(inner: Recipe, part: Part) -> int:
    """How many of its numbers the weights speak against."""
    return sum(part.bound.get(name, value) != value for name, value in inner.arguments.items())


def _as_called(one: Definition, argument: str, inside: Mapping[str, Shape], found: Found, depth: int) -> Part | None:
    """As a call of the class in the code names it."""
    for call in found.calls.get(one.name, ()):
        node = _as_call(dict(_given(call, one)).get(argument, call), found)
        name = last_name(node.func) if node is not None and node is not call else ""
        named = next((other for other in found.modules if other.name == name), None)
        made = next((other for other in found.modules if named and other.is_class and other.name == named.made), None)
        score, part = _fitted(made, node, inside, found, depth) if made else (0.0, None)
        if score >= FITS:
            return part
    return None


def _alone(one: Definition, inside: Mapping[str, Shape], found: Found, depth: int) -> Part | None:
    """The only class of the folder that fits these weights best."""
    others = [other for other in found.modules if other.is_class and other.runs and other.name != one.name]
    fitted = [_fitted(other, None, inside, found, depth) for other in others]
    best = max((score for score, _ in fitted), default=0.0)
    rivals = [part for score, part in fitted if score == best]
    return rivals[0] if best >= FITS and len(rivals) == 1 else None


def _fitted(
    made: Definition, node: ast.Call | None, inside: Mapping[str, Shape], found: Found, depth: int
) -> tuple[float, Part]:
    asked = (made.spec, ast.unparse(node) if node else "", frozenset(inside.items()), depth)
    if asked not in found.tried:
        found.tried[asked] = _fit(made, node, inside, found, depth)
    fitted: tuple[float, Part] = found.tried[asked]
    return fitted


def _fit(
    made: Definition, node: ast.Call | None, inside: Mapping[str, Shape], found: Found, depth: int
) -> tuple[float, Part]:
    parts = parts_given(made, inside, found, depth - 1)
    whole = with_parts(made, parts)
    score, bound = agreement(whole.layers, inside, found, whole)
    score = score if any(layer not in parts for layer in made.layers) else min(1.0, score / _UNWEIGHED)
    return score, Part(whole, bound, node, parts)


_UNWEIGHED = 0.8  # what `agreement` gives names alone, where no layer is of a known kind
