"""Whether a model takes inputs of certain shapes, and which layer each goes into first: by following forward."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from idp_deploy.surveying.definitions import Definition
from idp_deploy.surveying.effects import OddError, Shape
from idp_deploy.surveying.fitting import Choice
from idp_deploy.surveying.following import Follower
from idp_deploy.surveying.layers import literal
from idp_deploy.surveying.rooms import LongError, Rooms, Steps, rooms_of
from idp_deploy.surveying.sources import Found
from idp_deploy.surveying.tensors import T


@dataclass(frozen=True, eq=False)
class Trial:
    """A model to be tried with shapes."""

    found: Found
    choice: Choice
    steps: Steps = field(default_factory=Steps)

    @cached_property
    def probed(self) -> Follower:
        """What is told with no shape given."""
        return self.follow([None] * len(self.choice.inputs)) or self._follower()

    def fits(self, shapes: Sequence[Shape | None]) -> bool:
        """Whether nothing that is known speaks against these shapes."""
        return self.follow(shapes) is not None

    def takes(self, shapes: Sequence[Shape | None]) -> bool:
        """Whether it takes these, with what its layers leave known all the way."""
        follower = self.follow(shapes)
        return follower is not None and not follower.lost

    def gap(self, shapes: Sequence[Shape | None]) -> tuple[int, int] | None:
        """(what a layer is given, what it was made for), of the first that does not go together."""
        found = self._followed(shapes)
        return found.extents if isinstance(found, OddError) else None

    def sure(self, shape: Shape) -> bool:
        """Whether a model of one input takes this shape, and all of the way is known."""
        follower = self.follow([shape])
        return follower is not None and follower.checked and not follower.dark and not follower.blind

    def follow(self, shapes: Sequence[Shape | None]) -> Follower | None:
        """What following forward tells; None where the shapes do not go together."""
        found = self._followed(shapes)
        return None if isinstance(found, OddError) else found

    def _followed(self, shapes: Sequence[Shape | None]) -> Follower | OddError:
        follower = self._follower()
        name = self.choice.definition.made
        made = self.choice.supplied.get(name) or next(
            (one for one in self.found.modules if one.is_class and one.name == name), None
        )
        if made is None:
            follower.dark = follower.blind = True
            return follower
        one = self.choice.definition
        call = one.call if one.call is not None and not one.is_class else ast.Call(ast.Name(""), [], [])
        handed = [*zip(made.parameters, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
        follower.aliases = {name: node.id for name, node in handed if name and isinstance(node, ast.Name)}
        arguments = {name: literal(node, self.found.constants) for name, node in handed if name}
        arguments = {name: value for name, value in arguments.items() if value is not None} | dict(
            self.choice.arguments
        )
        try:
            pairs = zip(self.choice.inputs, shapes, strict=False)
            given = {name: T(shape) if shape is not None else T(of=name) for name, shape in pairs}
            follower.run(made, arguments, given)
        except OddError as error:
            return error
        except (LongError, *_ANYBODYS):
            follower.dark = follower.blind = follower.lost = True
        return follower

    @cached_property
    def stored(self) -> Mapping[str, tuple[int, ...]]:
        return stored(self.choice)

    @cached_property
    def _rooms(self) -> Rooms:
        return rooms_of(self.stored)

    @cached_property
    def _classes(self) -> Mapping[str, Definition]:
        own = {one.name: one for one in self.found.modules if one.is_class or one.layers}
        return {**own, **self.choice.supplied}

    def _follower(self) -> Follower:
        return Follower(self._classes, self.stored, self.found.constants, self._rooms, self.steps)


# what following a text may raise that was never run: it is anybody's
_ANYBODYS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


def stored(choice: Choice) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by the names that the model has for them, in the order of its layers."""
    if choice.weights is None:
        return {}
    start = f"{choice.prefix}." if choice.prefix else ""
    names = {n.removeprefix(start): s for n, s in choice.weights.shapes.items() if n.startswith(start)}
    unsorted = (
        choice.weights.path.suffix != ".safetensors"
    )  # such a file sorts by name, others keep the order of layers
    tops = dict.fromkeys(layer.partition(".")[0] for layer in (names if unsorted else choice.layers))
    order = {top: place for place, top in enumerate(tops)}
    unknown = names.items() if not choice.layers else ()
    likely = [name for name, shape in unknown if len(shape) == 4 and shape[1] == 3]  # takes a picture
    likely += [name for name, shape in unknown if len(shape) == 2 and "emb" in name]

    def place(name: str) -> tuple[bool, int]:
        return (bool(likely) and name != likely[0], order.get(name.partition(".")[0], len(order)))

    return {name: names[name] for name in sorted(names, key=place)}


def held(settings: Mapping[str, object], names: Sequence[str]) -> int | None:
    """The first of these that is a size."""
    values = (value for name in names for key, value in settings.items() if key == name or key.endswith(f"_{name}"))
    return next((value for value in values if isinstance(value, int) and value > 1), None)
