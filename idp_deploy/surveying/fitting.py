"""Which module the weights belong to, and with which arguments it is built: by names and shapes, with nothing run."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from idp_deploy.surveying.layers import KINDS, argument, leaves, literal, solved
from idp_deploy.surveying.sources import Definition, Found
from idp_deploy.surveying.stored import Stored

FITS = 0.5  # share of names that agree, from which a file counts as this module's


@dataclass(frozen=True)
class Choice:
    """The module to deploy."""

    definition: Definition
    layers: Mapping[str, ast.Call]  # its own, or those of the class that it returns
    arguments: Mapping[str, object] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()  # arguments that it needs and nothing tells
    weights: Stored | None = None
    prefix: str = ""  # of the weights' names in their file
    score: float = 0.0  # share of names that agree
    covers: int = 0  # names in the file that it would fill
    inputs: tuple[str, ...] = ("x",)
    keys: tuple[str, ...] = ()  # of an input that is a dict

    @property
    def spec(self) -> str:
        """`net:Net(width=32)`, as configuration names it."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.definition.spec}({given})" if given else self.definition.spec


def choose(found: Found, stored: Sequence[Stored]) -> tuple[Choice | None, list[str]]:
    """The best pair of a module and a file of weights, and what should be said about the others."""
    pairs = [_pair(found, one, file) for one in found.modules for file in (*stored, None)]
    order = {one.spec: index for index, one in enumerate(found.modules)}
    ranked = sorted(
        pairs,
        key=lambda one: (-round(one.score, 2), bool(one.unknown), order[one.definition.spec], one.weights is None),
    )
    if not ranked:
        return None, [
            f"{file.path.name} holds weights, and no module that could take them was found" for file in stored
        ]
    best = ranked[0]
    notes = []
    if best.score < FITS and stored:
        notes.append(f"whether {stored[0].path.name} belongs to {best.spec} cannot be told from their names alone")
    rivals = [
        one for one in ranked
        if one.score >= FITS and not one.unknown and one.weights is best.weights and one.covers > best.covers * FITS
    ]  # fmt: skip
    others = dict.fromkeys(one.spec for one in rivals if one.definition is not best.definition)
    if others:
        notes.append(f"the weights would also fit {', '.join(others)}")
    fitting = {one.weights.path.name for one in ranked if one.weights and one.score >= best.score - 0.01}
    beside = sorted(fitting - {best.weights.path.name if best.weights else ""})
    if beside:
        notes.append(f"{', '.join(beside)} would fit as well; taken is what calls itself best, else the newest")
    return best, notes


def _pair(found: Found, one: Definition, stored: Stored | None) -> Choice:
    made = next((other for other in found.modules if other.is_class and other.name == one.returns), one)
    layers = one.layers or made.layers
    best: tuple[float, str, dict[str, object], int] = (0.0, "", {}, 0)
    if stored is not None:
        for prefix in _prefixes(stored):
            start = f"{prefix}." if prefix else ""
            names = {n.removeprefix(start): s for n, s in stored.shapes.items() if n.startswith(start)}
            if _is_part(prefix, stored):
                continue
            score, bound = _agreement(layers, names, found.constants)
            if score > best[0]:
                best = (score, prefix, bound, len(names))
    score, prefix, bound, covers = best
    arguments, unknown = _arguments(one, bound, found, stored)
    return Choice(one, layers, arguments, unknown, stored, prefix, score, covers, made.inputs, made.keys)


def _prefixes(stored: Stored) -> list[str]:
    """Where a state dict may begin."""
    found = {"": 0}
    for name in stored.shapes:
        parts = name.split(".")
        for depth in range(1, min(len(parts), 4)):
            found[".".join(parts[:depth])] = 0
    return list(found)


def _is_part(prefix: str, stored: Stored) -> bool:
    """Whether it names one layer of several in a row, whose module is not the whole model."""
    row, _, last = prefix.rpartition(".")
    inside = row.count(".") + bool(row)
    return last.isdigit() and any(
        name.startswith(f"{row}." if row else "") and not f"{name}.".startswith(f"{prefix}.")
        and name.split(".")[inside].isdigit()
        for name in stored.shapes
    )  # fmt: skip


def _agreement(
    layers: Mapping[str, ast.Call], names: Mapping[str, tuple[int, ...]], constants: Mapping[str, object]
) -> tuple[float, dict[str, object]]:
    """(share of names and shapes that agree, arguments that the shapes tell)."""
    stored = {name.partition(".")[0] for name in names}
    known = {name: call for name, call in leaves(layers) if call_kind(call) in KINDS}
    if not stored or not layers:
        return 0.0, {}
    bound: dict[str, object] = {}
    right = 0
    for name, call in known.items():
        kind = KINDS[call_kind(call)]
        fits = True
        for key, (parameter, axis) in kind.sizes.items():
            shape, node = names.get(f"{name}.{parameter}"), argument(call, kind, key)
            if shape is None or len(shape) <= axis:
                fits = fits and parameter != "weight" and shape is not None
                continue
            if node is None or (key == "in_channels" and argument(call, kind, "groups") is not None):
                continue
            value = literal(node, constants)
            if isinstance(value, int) and value != shape[axis]:
                fits = False
            elif value is None and (pair := solved(node, shape[axis])) is not None:
                bound[pair[0]] = bound.get(pair[0], pair[1])
                fits = fits and bound[pair[0]] == pair[1]
        right += fits
    shared = len(stored & layers.keys()) / len(stored)
    return shared * (right / len(known) if known else 0.8), bound


def call_kind(call: ast.Call) -> str:
    """`Conv2d`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _arguments(
    one: Definition, bound: Mapping[str, object], found: Found, stored: Stored | None
) -> tuple[dict[str, object], tuple[str, ...]]:
    """What to build it with: as the shapes tell, else as the checkpoint notes, else as the code calls it."""
    called = _called(one, found)
    given: dict[str, object] = {}
    unknown = []
    for name, default in one.parameters.items():
        usual = literal(default, found.constants)
        noted = stored.settings.get(name) if stored else None
        value = next((source for source in (bound.get(name), noted, called.get(name)) if source is not None), None)
        if value is None and default is None:
            unknown.append(name)
        elif value is not None and (default is None or value != usual):
            given[name] = value
    return given, tuple(unknown)


def _called(one: Definition, found: Found) -> dict[str, object]:
    """Literal arguments of the first call of it in the folder that gives all that it needs."""
    for call in found.calls.get(one.name, ()):
        values = dict(zip(one.parameters, (literal(node, found.constants) for node in call.args), strict=False))
        values |= {word.arg: literal(word.value, found.constants) for word in call.keywords if word.arg}
        usable = {name: value for name, value in values.items() if value is not None and name in one.parameters}
        if usable.keys() >= set(one.needs):
            return usable
    return {}
