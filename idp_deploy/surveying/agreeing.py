"""Whether stored weights could be a module's: names and shapes beside what its layers are made with."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from idp_deploy.surveying.definitions import Definition
from idp_deploy.surveying.layers import KINDS, Shape, argument, call_kind, evaluated, leaves, literal, named, solved
from idp_deploy.surveying.origins import Origins
from idp_deploy.surveying.rows import Loop, appended_to, pieces_of, told
from idp_deploy.surveying.sources import Found

DEPTH = 3  # of parts within parts
UNLIKE, ODD = 0.4, 0.95  # a factory gives another value than the weights tell; a list may hold another number of layers
_DRAWN = ("zeros", "ones", "empty", "randn", "rand", "FloatTensor", "Tensor")


def agreement(
    layers: Mapping[str, ast.Call], names: Mapping[str, Shape], found: Found, made: Definition, depth: int = DEPTH
) -> tuple[float, dict[str, object]]:
    """(share of names and shapes that agree, arguments that the shapes tell).

    Args:
        depth: how many parts within parts are looked into.
    """
    stored = {name.partition(".")[0] for name in names}
    shared = len(stored & layers.keys()) / len(stored) if stored else 0.0
    if not shared:  # most pairs of a module and a place in the file: nothing else is looked at
        return 0.0, {}
    facts = {name: list(_facts(name, call, names)) for name, call in leaves(layers)}
    every = [fact for entries in facts.values() for fact in entries]
    every += [fact for name, call in leaves(layers) for fact in _alike(name, call, names, made)]
    bound = _solved(every, found, made)
    known = {name for name, call in leaves(layers) if call_kind(call) in KINDS}
    right = sum(f"{name}.{_told_by(facts[name])}" in names and _hold(facts[name], bound, found) for name in known)
    for name, call in leaves(layers):
        heard = _inside(name, call, names, found, made, depth)
        bound = {key: value for key, value in heard.items() if key not in made.changed} | bound
    bound = _solved(every, found, made, bound) | bound if bound else bound  # beside what its parts have told
    bound |= _other(every, found, made, bound) if depth == DEPTH else {}  # once all parts have told theirs
    return shared * (right / len(known) if known else 0.8), bound


def likeness(
    one: Definition, made: Definition, bound: Mapping[str, object], names: Mapping[str, Shape], found: Found
) -> float:
    """1 where nothing that a factory gives its class speaks against the weights, less where something does."""
    given = dict(zip(made.parameters, one.call.args, strict=False)) if one.call else {}
    given |= {word.arg: word.value for word in one.call.keywords if word.arg} if one.call else {}
    values = {name: literal(node, found.constants) for name, node in given.items()}
    if any(isinstance(value, int) and bound.get(name, value) != value for name, value in values.items()):
        return UNLIKE
    for name, call in made.layers.items():
        places = [
            node for node in call.args if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        ]
        numbers = values.get(ast.unparse(places[0].value)) if len(places) == 1 else None
        at = places[0].slice.value if places and isinstance(places[0].slice, ast.Constant) else None
        several = isinstance(numbers, list | tuple) and isinstance(at, int) and at < len(numbers)
        if several and numbers[at] != len(_row(name, names)):  # type: ignore[index]
            return ODD  # `self._make(block, 64, numbers[0])` of `Net(Block, [2, 2])`
    return 1.0


Fact = tuple[str, ast.expr, int]  # (parameter that tells it, expression, its value)


def _facts(name: str, call: ast.Call, names: Mapping[str, Shape]) -> Iterator[Fact]:
    """What the arguments of one layer must have been."""
    kind = KINDS.get(call_kind(call))
    for key, (parameter, axis) in kind.sizes.items() if kind else ():
        shape, node = names.get(f"{name}.{parameter}", ()), argument(call, kind, key) if kind else None
        grouped = key == "in_channels" and kind is not None and argument(call, kind, "groups") is not None
        if len(shape) > axis and node is not None and not grouped:
            yield parameter, node, shape[axis]
    if kind and "num_layers" in kind.arguments and (node := argument(call, kind, "num_layers")) is not None:
        told = "weight_ih_l{}" if "input_size" in kind.arguments else "layers.{}.linear1.weight"
        yield told.format(0), node, sum(f"{name}.{told.format(i)}" in names for i in range(64))
    if call_kind(call) == "TransformerEncoder" and call.args and isinstance(call.args[0], ast.Call):
        inside = _facts(f"{name}.layers.0", call.args[0], names)
        yield from ((f"layers.0.{parameter}", node, value) for parameter, node, value in inside)
    if call_kind(call) == "Parameter" and call.args and (drawn := _drawn(call.args[0])):
        extents = drawn.args[0].elts if drawn.args and isinstance(drawn.args[0], ast.Tuple) else drawn.args
        if len(extents) == len(names.get(name, ())):
            yield from (("", node, extent) for node, extent in zip(extents, names[name], strict=True))


def _alike(name: str, call: ast.Call, names: Mapping[str, Shape], made: Definition) -> Iterator[Fact]:
    """What all layers of a row were given: `3 * classes` of `ModuleList(Conv2d(c, 3 * classes, 1) for c in widths)`."""
    row = pieces_of(call, made.init) or appended_to(name, made.init) if call_kind(call) in _ROWS else []
    if len(row) != 1 or not isinstance(row[0], Loop) or row[0].nested or len(row[0].calls) != 1:
        return
    own = {node.id for node in ast.walk(row[0].target) if isinstance(node, ast.Name)}
    for place in _row(name, names):
        for parameter, node, value in _facts(f"{name}.{place}", row[0].calls[0], names):
            if own.isdisjoint(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)):
                yield parameter, node, value


_ROWS = ("ModuleList", "Sequential")


def _drawn(node: ast.expr) -> ast.Call | None:
    """`torch.empty(8, 4)` of `torch.empty(8, 4).uniform_()` and of `0.02 * torch.empty(8, 4)`."""
    return next((one for one in ast.walk(node) if isinstance(one, ast.Call) and call_kind(one) in _DRAWN), None)


def _told_by(facts: list[Fact]) -> str:
    return facts[0][0] if facts else "weight"


def _solved(
    facts: list[Fact], found: Found, made: Definition, given: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Arguments by name: first those that stand alone in an expression, then those beside others that are known."""
    bound: dict[str, object] = dict(given or {})
    usual = {name: literal(node, found.constants) for name, node in made.parameters.items()}
    shares = frozenset(name for name, value in usual.items() if isinstance(value, float))
    origins = Origins(made, {one.name: one for one in found.modules if one.is_class})
    facts = [(parameter, origins.of(node), value) for parameter, node, value in facts]
    for known in ({}, usual):
        for _, node, value in facts:
            pair = solved(node, value, {**found.constants, **known, **bound}, shares)
            if pair is not None and pair[0] not in made.changed:
                bound.setdefault(*pair)
    return bound


def _other(facts: list[Fact], found: Found, made: Definition, bound: Mapping[str, object]) -> dict[str, object]:
    """Of several arguments that have defaults and stand in one expression, the one that must be another."""
    usual = {name: literal(node, found.constants) for name, node in made.parameters.items()}
    told: dict[str, object] = {}
    for _, node, value in facts:
        known = {**found.constants, **usual, **bound, **told}
        if evaluated(node, known) in (None, value):
            continue
        names = {named(one) for one in ast.walk(node) if isinstance(one, ast.expr)} & usual.keys() - bound.keys()
        without = ({key: held for key, held in known.items() if key != name} for name in names - made.changed)
        pairs = [pair for rest in without if (pair := solved(node, value, rest))]
        told |= dict(pairs) if len(pairs) == 1 else {}
    return told


def _hold(facts: list[Fact], bound: Mapping[str, object], found: Found) -> bool:
    return all(evaluated(node, {**found.constants, **bound}) in (None, value) for _, node, value in facts)


def _inside(
    name: str, call: ast.Call, names: Mapping[str, Shape], found: Found, made: Definition, depth: int
) -> dict[str, object]:
    """Arguments that the layers of a list tell, or those of a part that this folder defines."""
    if call_kind(call) in _ROWS:
        row, stored = pieces_of(call, made.init) or appended_to(name, made.init), _row(name, names)
        bound: dict[str, object] = {}
        calls = [one for piece in row for one in (piece.calls if isinstance(piece, Loop) else (piece,))]
        for part_call, place in zip(calls, sorted(stored), strict=False) if depth else ():
            if part := _part(part_call, found):
                bound = (
                    handed_on(part_call, part, agreement(part.layers, stored[place], found, part, depth - 1)[1]) | bound
                )

        def heard(one: ast.Call, shapes: Mapping[str, Shape]) -> Mapping[str, object]:
            if part := _part(one, found) if depth else None:
                return handed_on(one, part, agreement(part.layers, shapes, found, part, depth - 1)[1])
            inner = {f"row.{key}": shape for key, shape in shapes.items()}
            facts = (fact for key, call in leaves({"row": one}) for fact in _facts(key, call, inner))
            return {name: value for _, node, value in facts if (name := named(node))}

        return bound | told(row, stored, made.init, heard)
    part = _part(call, found)
    if part is None or not depth:
        return {}
    inside = {key.removeprefix(f"{name}."): shape for key, shape in names.items() if key.startswith(f"{name}.")}
    return handed_on(call, part, agreement(part.layers, inside, found, part, depth - 1)[1])


def _part(call: ast.Call, found: Found) -> Definition | None:
    return next((one for one in found.modules if one.name == call_kind(call) and one.layers), None)


def handed_on(call: ast.Call, part: Definition, bound: Mapping[str, object]) -> dict[str, object]:
    """What a module's own arguments are, where it hands them to a part whose arguments are known."""
    given = [*zip(part.parameters, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
    found: dict[str, object] = {}
    for parameter, node in given:
        value = bound.get(parameter or "")
        if isinstance(value, int) and (pair := solved(node, value)):
            found[pair[0]] = pair[1]
        elif isinstance(value, list) and (name := named(node)):
            found[name] = value
        if name := named(node):
            inside = {key.partition(".")[2]: value for key, value in bound.items() if key.startswith(f"{parameter}.")}
            found |= {f"{name}.{key}": value for key, value in inside.items()}
    return found


def _row(name: str, names: Mapping[str, Shape]) -> dict[int, dict[str, Shape]]:
    """Place in a list → shapes of what is stored there."""
    found: dict[int, dict[str, Shape]] = {}
    for key, shape in names.items():
        place, _, inner = key.removeprefix(f"{name}.").partition(".")
        if key.startswith(f"{name}.") and place.isdigit():
            found.setdefault(int(place), {})[inner] = shape
    return found
