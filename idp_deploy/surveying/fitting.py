"""Which module the weights belong to, and with which arguments it is built: by names and shapes, with nothing run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from idp_deploy.surveying.agreeing import UNLIKE, agreement, likeness
from idp_deploy.surveying.bundles import Made, Record, nested
from idp_deploy.surveying.calling import DROPPED, called, doubtful, doubts_of, value_of
from idp_deploy.surveying.definitions import Definition
from idp_deploy.surveying.keyed import Keys, keys_of
from idp_deploy.surveying.layers import call_kind, literal
from idp_deploy.surveying.libraries import classes_of
from idp_deploy.surveying.sources import Found
from idp_deploy.surveying.stored import Stored
from idp_deploy.surveying.supplying import Part, every, parts_given, passed_through, with_parts

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
    flows: Mapping[str, str] = field(default_factory=dict)  # input → the layer that takes it first
    # classes that are given others, by name, and those
    supplied: Mapping[str, Definition] = field(default_factory=dict)
    doubts: Mapping[str, list[object]] = field(default_factory=dict)  # argument → values of which the weights tell none
    bound: frozenset[str] = frozenset()  # arguments that the weights tell

    @property
    def spec(self) -> str:
        """`net:Net(width=32)`, as configuration names it."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.definition.spec}({given})" if given else self.definition.spec


def choose(found: Found, stored: Sequence[Stored], folder: Path) -> tuple[Choice | None, list[str]]:
    """The best pair of a module and a file of weights, and what should be said about the others."""

    def shown(file: Stored) -> str:
        return file.path.relative_to(folder).as_posix() if file.path.is_relative_to(folder) else file.path.name

    pairs = [_pair(found, one, file) for one in found.modules for file in (*stored, None)]
    order = {one.spec: index for index, one in enumerate(found.modules)}
    likely: dict[Path | None, int] = {file.path: index for index, file in enumerate(stored)}
    likely[None] = len(stored)

    def rank(one: Choice) -> tuple[float, bool, bool, bool, int, int]:
        file = likely[one.weights.path if one.weights else None]
        at_home = one.weights is not None and one.weights.path.is_relative_to(one.definition.file.parent)
        fits = (-round(one.score, 2), not one.definition.runs, bool(one.unknown))  # names alone: twins live apart
        return (*fits, not at_home, file, order[one.definition.spec])

    ranked = sorted(pairs, key=rank)
    if not ranked:
        return None, [f"{shown(file)} holds weights ({_outline(file)}): {_CODELESS}" for file in stored]
    best = _whole(ranked[0], ranked, found)
    notes = []
    if best.score < FITS and stored and not best.definition.spec.startswith("transformers:"):
        notes.append(f"whether {shown(stored[0])} belongs to {best.spec} cannot be told from their names alone")
    if best.weights and (odd := _misfit(best)):
        notes.append(
            f"{shown(best.weights)} may be another model's: {best.spec} has {odd[0]!r}, and the file {odd[1]!r}"
        )
    if dropped := [name for name in best.definition.needs if DROPPED.search(name) and best.arguments.get(name) == 0.0]:
        notes.append(f"{', '.join(dropped)} is set to 0.0: the weights do not tell it, and only training sees it")
    notes += doubts_of(best.definition, best.doubts, best.arguments, best.bound, found) if best.weights else ()
    if left := _beside_it(best):
        file = shown(best.weights) if best.weights else ""
        notes.append(
            f"{file} holds more beside {best.prefix!r}, such as {some(left)}: {best.spec} may be a part of the model"
        )
    rivals = [
        one for one in ranked
        if one.score >= FITS and not one.unknown and one.weights is best.weights and one.covers > best.covers * FITS
        and one.definition.runs and not one.definition.copy
        and not (best.definition.copy and best.definition.copy.path == one.definition.file)
    ]  # fmt: skip
    homes = {file.path: _home(file, found.modules) for file in stored}
    home = homes[best.weights.path] if best.weights else None
    rivals = [one for one in rivals if home is None or one.definition.file.is_relative_to(home)]
    others = dict.fromkeys(one.spec for one in rivals if not _shares(one, best, found))
    if others:
        notes.append(f"the weights would also fit {some(list(others))}")
    beside = [one for one in ranked if one.weights and one.weights is not best.weights and one.score >= FITS]
    same = {
        shown(one.weights) for one in beside
        if one.weights and one.definition.spec == best.definition.spec and homes[one.weights.path] == home
    }  # fmt: skip
    if same:
        notes.append(f"{some(sorted(same))} would fit as well; taken is what calls itself best, else the newest")
    elsewhere = {shown(one.weights): one.spec for one in reversed(beside) if one.weights}
    return best, [
        *notes,
        *(
            f"{name} belongs to {elsewhere[name]}: to deploy that one, name both in the file"
            for name in sorted(elsewhere.keys() - same)
        ),
    ]


def _home(file: Stored, modules: Sequence[Definition]) -> Path | None:
    """The deepest folder of code that a file of weights lies in, as in a repository of several models."""
    folders = {one.file.parent for one in modules if file.path.is_relative_to(one.file.parent)}
    return max(folders, key=lambda folder: len(folder.parts), default=None)


_CODELESS = (
    "a module that could take them is defined in no Python file here; put the file beside them, or name it as model"
)


def _outline(stored: Stored) -> str:
    """The first and the last matrix of a file.

    >>> _outline(Stored(Path("w.pt"), {"a.weight": (8, 4), "a.bias": (8,), "b.weight": (2, 8)}, {}, {}))
    "3 tensors, from 'a.weight' 8×4 to 'b.weight' 2×8"
    """
    matrices = [f"'{name}' {'×'.join(map(str, shape))}" for name, shape in stored.shapes.items() if len(shape) > 1]
    ends = f", from {matrices[0]} to {matrices[-1]}" if matrices else ""
    return f"{len(stored.shapes)} tensors{ends}"


def _whole(best: Choice, ranked: Sequence[Choice], found: Found, passed: frozenset[str] = frozenset()) -> Choice:
    """What the best is a part of, where the file holds that whole: an encoder alone fits its own weights best."""
    for one in ranked:
        holds = not {best.definition.made, best.definition.name}.isdisjoint(_parts(one.definition, found))
        holds |= best.prefix in {f"{one.prefix}.{place}".lstrip(".") for place in one.definition.built}
        fits = one.weights is best.weights and one.score >= FITS and one.covers >= best.covers
        clear = len(one.unknown) <= len(best.unknown) or best.definition.returns == "Sequential"
        # an argument is left open, no weight is left out
        clear = clear or bool(best.prefix and one.covers > best.covers)
        if holds and fits and one.definition.runs and clear:
            within = passed | {best.definition.spec}  # two may be made of each other
            return _whole(one, ranked, found, within) if one.definition.spec not in within else best
    return best


def _beside_it(best: Choice) -> list[str]:
    """Weights beside those of the model in its file, averages of the same left out."""
    if best.weights is None or not best.prefix or best.score < FITS:
        return []
    own = _below(best.weights, best.prefix)
    same = [f"{place}." for place in _prefixes(best.weights) if place and _below(best.weights, place) == own]
    others = (name for name, shape in best.weights.shapes.items() if shape)
    return [name for name in others if not name.startswith(tuple(same))]


def _misfit(best: Choice) -> tuple[str, str] | None:
    """(weights that the file lacks, others that no layer is there for), where there are both."""
    one = best.definition
    if best.weights is None or not one.is_class or one.library:
        return None
    names = _below(best.weights, best.prefix)
    known = {layer.partition(".")[0] for layer in best.layers} | one.put.keys() | one.handed.keys() | one.built.keys()
    weights = (f"{layer}.weight" for layer, call in best.layers.items() if call_kind(call) in _WEIGHING)
    lacking = next((name for name in weights if name not in names), None)
    odd = next((name for name in names if name.partition(".")[0] not in known), None)
    return (lacking, odd) if lacking and odd else None


_WEIGHING = {
    "Linear",
    "Embedding",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
}


def _parts(one: Definition, found: Found) -> set[str]:
    """Names of the classes and functions of this folder that a module is made of, however deep."""
    classes = {other.name: other for other in found.modules}
    inside: set[str] = set()
    left = [one]
    while left:
        node = left.pop()
        direct = (node.parts | classes.get(node.made, node).parts) & classes.keys() - inside - {one.made}
        inside |= direct
        left += [classes[part] for part in direct]
    return inside


def _shares(one: Choice, best: Choice, found: Found) -> bool:
    """Whether one is a factory of the other, or its part."""
    first, second = one.definition, best.definition
    named = first.made == second.made and first.is_class != second.is_class
    return named or one is best or first.made in _parts(second, found) or second.made in _parts(first, found)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are.

    >>> some(["a", "b"]), some(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"


def _pair(found: Found, one: Definition, stored: Stored | None) -> Choice:
    made = next((other for other in found.modules if other.is_class and other.name == one.returns), one)
    layers = one.layers or made.layers
    best: tuple[float, str, dict[str, object], int] = (0.0, "", {}, 0)
    parts: Mapping[str, Part] = {}
    keys: Keys | None = None
    if stored is not None:
        for prefix in _prefixes(stored):
            if best[0] >= 1:
                break
            own = layers.keys() | made.handed.keys() | made.built.keys()
            if own.isdisjoint(stored.rooms.get(prefix, ())) or _is_part(prefix, stored):
                continue
            names = _below(stored, prefix)
            given = parts_given(made, names, found)
            score, bound = agreement(with_parts(made, given).layers if given else layers, names, found, made)
            asked = keys_of(one, made, bound, found) if score > best[0] else None
            if asked is not None:
                score *= 1.0 if asked.fitting else UNLIKE
            else:
                score *= likeness(one, made, bound, names, found) if score > best[0] else 0.0
            if score > best[0]:
                best = (score, prefix, bound, len(names))
                parts, keys = given, asked
    score, prefix, bound, covers = best
    if keys is not None and keys.fitting:
        one = replace(one, call=keys.call)
    whole = with_parts(made, parts)
    layers = whole.layers if parts else layers
    if made is one:
        bound |= {name: built for name, part in parts.items() if (built := _built(part, one, found, stored))}
    else:
        bound = _passed_on(one, made, bound) | passed_through(one.call, made, parts, found)
    doubts = doubtful(one, bound, found) if stored else {}
    if keys is not None and keys.fitting:
        bound |= {keys.argument: keys.fitting[0]}
        doubts |= {keys.argument: list(keys.fitting)} if len(keys.fitting) > 1 else {}
    arguments, unknown = _arguments(one, bound, found, stored)
    classes = {other.name: other for other in found.modules if other.layers}
    supplied = {other.name: other for other in (whole, *every(parts))} if parts else {}
    within = dict(_within(layers, classes | supplied))
    chosen = whole if made is one else replace(one, parts=one.parts | whole.parts) if parts else one
    told = (arguments, unknown, stored, prefix, score, covers, made.inputs, made.keys, made.flows)
    return Choice(chosen, within, *told, supplied=supplied, doubts=doubts, bound=frozenset(bound))


def _built(part: Part, one: Definition, found: Found, stored: Stored | None) -> object | None:
    """A module that another is given, as a configuration writes it; None where an argument of it is not known."""
    inner = {name: built for name, each in part.parts.items() if (built := _built(each, one, found, stored))}
    if part.recipe is not None:
        told = {name: value for name, value in part.bound.items() if name in part.recipe.arguments}
        return {**part.recipe.table(), **told, **inner}
    arguments, unknown = _arguments(part.definition, {**part.bound, **inner}, found, stored)
    module, _, name = part.definition.spec.partition(":")
    copied = part.definition.copy and part.definition.copy.path != (one.copy and one.copy.path)
    if unknown or copied:
        return None
    return Made(name if module == one.spec.partition(":")[0] else f"{module}.{name}", arguments)


def _within(
    layers: Mapping[str, ast.Call], classes: Mapping[str, Definition], depth: int = 3
) -> Iterator[tuple[str, ast.Call]]:
    """Layers by dotted name, with those of the folder's own classes and functions in their places."""
    for name, call in layers.items():
        inner = classes[call_kind(call)].layers if call_kind(call) in classes and depth else {}
        if inner:
            yield from ((f"{name}.{part}", made) for part, made in _within(inner, classes, depth - 1))
        else:
            yield name, call


def _passed_on(one: Definition, made: Definition, bound: Mapping[str, object]) -> dict[str, object]:
    """What the arguments of a factory must be, where it hands them to the class as they are."""
    call = one.call or ast.Call(ast.Name(one.made), [], [])
    named = ((word.arg, word.value) for word in call.keywords if word.arg)
    given = [*zip(made.parameters, call.args, strict=False), *named]
    names = {node.id: name for name, node in given if name in bound and isinstance(node, ast.Name)}
    return {name: bound[names[name]] for name in one.parameters if name in names}


def _prefixes(stored: Stored) -> list[str]:
    """Where a state dict may begin."""
    found = {"": 0}
    for name in stored.shapes:
        parts = name.split(".")
        for depth in range(1, min(len(parts), 4)):
            found[".".join(parts[:depth])] = 0
    return list(found)


@lru_cache(maxsize=1 << 12)
def _below(stored: Stored, prefix: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes by the names that they have from there on."""
    start = f"{prefix}." if prefix else ""
    return {name.removeprefix(start): shape for name, shape in stored.shapes.items() if name.startswith(start)}


@lru_cache(maxsize=1 << 12)
def _is_part(prefix: str, stored: Stored) -> bool:
    """Whether it names one layer of several in a row, whose module is not the whole model."""
    row, _, last = prefix.rpartition(".")
    inside = row.count(".") + bool(row)
    return last.isdigit() and any(
        name.startswith(f"{row}." if row else "") and not f"{name}.".startswith(f"{prefix}.")
        and name.split(".")[inside].isdigit()
        for name in stored.shapes
    )  # fmt: skip


def _arguments(
    one: Definition, bound: Mapping[str, object], found: Found, stored: Stored | None
) -> tuple[dict[str, object], tuple[str, ...]]:
    """What to build it with: as the shapes tell, the checkpoint notes, a configuration says or the code calls it."""
    if one.library:
        said = {name: value for name, node in one.parameters.items() if (value := value_of(node, found)) is not None}
        return {**said, **classes_of(one, stored)}, ()
    bundled = {name: _bundled(name, one, bound, found, stored) for name in one.bundles}
    ways = called(one, bound, found)
    recipes = found.recipes.get(one.name, ())
    configured = found.instances.get(one.spec.replace(":", ".")) or found.instances.get(one.name) or {}
    configured = configured or (recipes[0].arguments if recipes else {})
    given: dict[str, object] = {}
    unknown = []
    for name, default in one.parameters.items():
        usual = literal(default, found.constants)
        noted = stored.settings.get(name) if stored else None
        sources = (bound.get(name), bundled.get(name), noted, configured.get(name), ways.get(name))
        value = next((source for source in sources if source is not None), None)
        if value is None and default is None:
            value = found.settings.get(name, found.constants.get(name.upper()))
        if value is None and default is None and DROPPED.search(name):
            value = 0.0  # which only training sees
        if value is None and default is None:
            unknown.append(name)
        elif value is not None and (default is None or value != (list(usual) if isinstance(usual, tuple) else usual)):
            given[name] = value
    return given, tuple(unknown)


def _bundled(
    name: str, one: Definition, bound: Mapping[str, object], found: Found, stored: Stored | None
) -> object | None:
    """The object that brings several arguments; None where it is left out, or a value of it is not known."""
    inside = [other for other in found.modules if other.name in _parts(one, found)]
    bundle = one.bundles[name]
    bundles = [other.bundles[name] for other in (one, *inside) if name in other.bundles]
    read = dict.fromkeys(field for each in bundles for field in each.fields)
    record = found.records.get(bundle.kind) or next(
        (record for record in found.records.values() if read.keys() <= record.fields.keys()), None
    )
    fields = record.fields if record and not bundle.keyed else dict.fromkeys(read)
    values: dict[str, object] = {}
    for field_, default in fields.items():
        usual, last = literal(default, found.constants), field_.rpartition(".")[2]
        noted = stored.settings.get(last) if stored else None
        sources = (bound.get(f"{name}.{field_}"), noted, None if default is not None else found.settings.get(last))
        value = next((source for source in sources if source is not None), None)
        if value is None and default is None:
            return None
        if value is not None and (default is None or value != usual):
            values[field_] = value
    if name in one.built.values():  # handed on whole: what builds of it reads more than this class does
        wholes = [table for table in found.wholes if values.keys() <= table.keys()]
        near = min(wholes, key=lambda table: sum(table[key] != values[key] for key in values), default={})
        values = {**near, **values}
    if bundle.keyed or record is None:
        return nested(values, bundle.keyed)
    if not values and one.parameters[name] is not None:
        return None
    return Made(record.spec.partition(":")[2] if _beside(record, one) else record.spec.replace(":", "."), values)


def _beside(record: Record, one: Definition) -> bool:
    return record.spec.partition(":")[0] == one.spec.partition(":")[0]
