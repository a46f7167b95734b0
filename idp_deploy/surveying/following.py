"""forward followed by shapes: nothing runs, its text is gone through with what the layers and the weights say of sizes.

x: (1, 3, 32, 32) ──self.conv──▶ (1, 8, 30, 30) ──flatten──▶ (1, 7200) ──self.fc, which takes 400──▶ OddError
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from idp_deploy.surveying import effects
from idp_deploy.surveying.bundles import assigned
from idp_deploy.surveying.definitions import Definition, last_name
from idp_deploy.surveying.effects import OddError, Shape
from idp_deploy.surveying.frames import DEEPEST, Frame
from idp_deploy.surveying.functions import applied, is_function
from idp_deploy.surveying.layers import KINDS, argument, call_kind, entries_of, literal, unwrapped
from idp_deploy.surveying.plain import MOST_ENTRIES, MOST_ROUNDS
from idp_deploy.surveying.rooms import Rooms, Steps
from idp_deploy.surveying.rows import Loop, Piece, appended_to, pieces_of
from idp_deploy.surveying.tensors import Instance, Layer, T, agree, tensors_in


@dataclass
class Follower:
    """What following forward tells.

    Args:
        classes: the folder's own, by name. stored: shapes of the weights, by dotted name.
    """

    classes: Mapping[str, Definition]
    stored: Mapping[str, Shape]
    constants: Mapping[str, object]
    rooms: Rooms = field(default_factory=dict)  # where weights lie
    steps: Steps = field(default_factory=Steps)
    aliases: Mapping[str, str] = field(default_factory=dict)  # argument → the class that is given for it
    flows: dict[str, tuple[str, int]] = field(default_factory=dict)  # input → (layer, place among its arguments)
    columns: dict[str, int] = field(default_factory=dict)  # input → how many columns of it are taken out one by one
    widths: dict[str, int | None] = field(
        default_factory=dict
    )  # input → its last extent, where a parameter multiplies it
    places: int = 0  # the most steps for which positions are learnt, 0 where they are not
    dark: bool = False  # something was met of which nothing is known
    blind: bool = False  # a matrix took what is not known
    checked: bool = False  # a matrix took as many values as what was laid flat before it has
    lost: bool = False  # of an extent that was known, a layer left one that is not
    held: dict[tuple[str, int], list[Layer]] = field(default_factory=dict)  # what lists hold, once told

    def step(self, count: int = 1) -> None:
        self.steps.take(count)

    def run(self, definition: Definition, given: Mapping[str, object], inputs: Mapping[str, T]) -> object:
        """What forward gives back.

        Raises:
            OddError: the shapes do not go together.
        """
        usual = {name: literal(node, self.constants) for name, node in definition.parameters.items()}
        return self.method(Instance(definition, "", usual | dict(given)), "forward", [], dict(inputs), 0)

    def method(self, this: Instance, name: str, values: list[Any], words: Mapping[str, Any], depth: int) -> object:
        node = this.definition.methods.get(name)
        if node is None or depth > DEEPEST:
            return self.unknown()
        names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
        names = names if any(last_name(one) == "staticmethod" for one in node.decorator_list) else names[1:]
        usual = dict(zip(reversed(names), (literal(one, {}) for one in reversed(node.args.defaults)), strict=False))
        usual |= dict(zip((one.arg for one in node.args.kwonlyargs), map(_default, node.args.kw_defaults), strict=True))
        bound = {**usual, **dict(zip(names, values, strict=False)), **words}
        return Frame(self, this, bound, depth).run(node.body)

    def class_of(self, layer: Layer) -> Definition | None:
        """The folder's own class or function that makes a layer."""
        kind = call_kind(layer.call)
        return self.classes.get(kind) or self.classes.get(self.aliases.get(kind, ""))

    def unknown(self) -> T:
        self.dark = True
        return T()

    def apply(self, layer: Layer, values: list[Any], words: Mapping[str, Any], depth: int) -> object:
        """A layer's result."""
        if depth > DEEPEST:
            return self.unknown()
        kind, first = call_kind(layer.call), values[0] if values else next(iter(words.values()), T())
        own = self.class_of(layer)
        made = kind in layer.owner.definition.methods and kind != "forward"
        if kind == "Sequential" or made or (own and not own.methods.get("forward") and own.layers):
            members = self.members(layer)
            if not members and layer.name in self.rooms:
                return self.unknown()
            for one in members:
                first = self.apply(one, [first], {}, depth + 1)
            return first
        if own is not None and own.is_class:
            return self.method(self.instance(layer, own), "forward", values, words, depth + 1)
        if layer.name in self.rooms:
            for place, value in enumerate(tensors_in([*values, *words.values()])):
                if value.of and not isinstance(value.shape, tuple):
                    self.flows.setdefault(value.of, (layer.name, place))
        elif kind in KINDS and self.stored:  # of a branch that was not taken as it was built
            return first
        if kind not in KINDS and kind.lower() not in effects.SAME and not is_function(kind):
            return self.unknown()
        return self._plain(layer, kind, first, values)

    def _plain(self, layer: Layer, kind: str, first: object, values: Sequence[object]) -> object:
        weight = self.stored.get(f"{layer.name}.weight", ())
        if kind == "Embedding" and weight and first is ...:  # counted up by itself: no input has a part in it
            self.places = min(self.places or weight[0] or 0, weight[0] or 0)
        if kind in ("LSTM", "GRU", "RNN"):
            return self._recurrent(layer, first)
        if not isinstance(first, T) or first.shape is None:
            self.blind |= kind == "Linear" and not (isinstance(first, T) and first.of)
            return T(of=first.of if isinstance(first, T) and not weight else "")
        shape = first.shape
        if kind.startswith("BatchNorm") and weight:
            agree(shape, 1, weight[0])
        elif kind == "LayerNorm" and weight:
            agree(shape, -1, weight[-1])
        elif kind == "Embedding":
            return T((*shape, weight[1] if len(weight) > 1 else None))
        elif kind == "Linear" and len(weight) == 2:
            agree(shape, -1, weight[1])
            self.checked |= shape[-1] is not None
            self.blind |= shape[-1] is None
            return T((*shape[:-1], weight[0]))
        elif kind.startswith("Transformer"):
            return T(shape)
        elif kind.startswith("Conv"):
            after = self._convolved(layer, kind, shape, weight)
            self.lost |= None not in shape and None in after
            return T(after)
        elif kind == "MultiheadAttention":
            return [T(shape), T()]
        elif kind.lower() not in effects.SAME:
            values = [self._argument(node, layer.owner) for node in layer.call.args]
            words = {word.arg: self._argument(word.value, layer.owner) for word in layer.call.keywords if word.arg}
            if kind == "Flatten" and not values:
                words.setdefault("start_dim", 1)
            found = applied(kind, [first, *values], words)
            self.lost |= None not in shape and isinstance(found, T) and None in (found.shape or (None,))
            return found if found is not None else self.unknown()
        return first

    def _convolved(self, layer: Layer, kind: str, shape: Shape, weight: Shape) -> Shape:
        if len(shape) != int(kind[-2]) + 2:
            raise OddError
        at = {
            name: self._argument(argument(layer.call, KINDS[kind], name), layer.owner, usual)
            for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1), ("kernel_size", ...))
        }
        up = "Transpose" in kind
        if len(weight) < 3:
            return (shape[0], *[None] * (len(shape) - 1))
        groups = at["groups"] if isinstance(at["groups"], int) else None
        if up:
            agree(shape, 1, weight[0])
        elif groups:
            agree(shape, 1, (weight[1] or 0) * groups)
        after = effects.slid(shape, weight[2:], at["stride"], at["padding"], at["dilation"], up=up)
        more = self._argument(argument(layer.call, KINDS[kind], "output_padding"), layer.owner, 0) if up else 0
        extents = (e + more if e is not None and isinstance(more, int) else e for e in after[2:])
        out = weight[1] * groups if up and groups and weight[1] else weight[0]
        return (shape[0], out, *extents)

    def _recurrent(self, layer: Layer, first: object) -> object:
        weight = self.stored.get(f"{layer.name}.weight_ih_l0", ())
        hidden = self.stored.get(f"{layer.name}.weight_hh_l0", (None, None))[-1]
        shape = first.shape if isinstance(first, T) else None
        if shape is None or not weight:
            return [T(), T()]
        if len(shape) != 3:
            raise OddError
        agree(shape, -1, weight[1])
        both = f"{layer.name}.weight_ih_l0_reverse" in self.stored
        count = sum(name.startswith("weight_hh_l") for name in self.rooms.get(layer.name, ()))
        first_batch = next((word.value for word in layer.call.keywords if word.arg == "batch_first"), None)
        batch = shape[0 if self._argument(first_batch, layer.owner, False) is True else 1]
        state = T((count, batch, hidden))
        lasting = [state, state] if call_kind(layer.call) == "LSTM" else state
        return [T((*shape[:-1], hidden * (1 + both) if hidden else None)), lasting]

    def _argument(self, node: ast.expr | None, owner: Instance, usual: object = ...) -> object:
        return usual if node is None else Frame(self, owner, dict(owner.given), 0).value(node)

    def instance(self, layer: Layer, own: Definition) -> Instance:
        """A module of the folder, with its arguments as far as the one that makes it tells them."""
        usual = {name: literal(node, self.constants) for name, node in own.parameters.items()}
        given = dict(zip(own.parameters, (self._argument(n, layer.owner) for n in layer.call.args), strict=False))
        given |= {word.arg: self._argument(word.value, layer.owner) for word in layer.call.keywords if word.arg}
        return Instance(own, f"{layer.name}.", usual | given)

    def members(self, layer: Layer) -> list[Layer]:
        """The layers of a list or a Sequential, each in its place."""
        key = (layer.name, id(layer.call))
        if key not in self.held:
            self.held[key] = self._members(layer)
            self.step(len(self.held[key]))
        return self.held[key]

    def _members(self, layer: Layer) -> list[Layer]:
        own = self.class_of(layer)
        if own is not None:
            owner = self.instance(layer, own)
            return [Layer(f"{owner.prefix}{name}", call, owner) for name, call in own.layers.items()]
        if entries := dict(entries_of(layer.call)):
            return [Layer(f"{layer.name}.{name}", unwrapped(call), layer.owner) for name, call in entries.items()]
        pieces, frame = self._pieces(layer)
        inside = self.rooms.get(layer.name, {})
        last = max((int(name) for name in inside if name.isdecimal() and len(name) < 5), default=-1)
        rest = sum(isinstance(one, ast.Call) for one in pieces)
        found = list(islice(self._unrolled(pieces, frame, last + 1 - rest), MOST_ENTRIES))
        if (not found and inside) or len(found) <= last:  # made in a way that is not looked into
            self.dark, found = True, []
        return [Layer(f"{layer.name}.{place}", unwrapped(call), owner) for place, (call, owner) in enumerate(found)]

    def _unrolled(
        self, pieces: Sequence[Piece], frame: Frame, count: int | None = None
    ) -> Iterator[tuple[ast.Call, Instance]]:
        """What a list is made of, call by call, each with the names that stand where it is made.

        Args:
            count: how many a loop makes whose rounds are alike; None where only what it goes over tells.
        """
        for one in pieces:
            if not isinstance(one, Loop):
                yield one, replace(frame.this, given=dict(frame.names))
                continue
            values = list(islice(frame.each(one.over), MOST_ROUNDS))
            if count is not None and not one.nested:
                rounds = max(1, -(-count // max(1, len(one.calls))))
                values = values if len(values) == rounds else [...] * rounds
            elif values == [...]:
                return
            for value in values:
                self.step()
                frame.bind(one.target, value)
                yield from self._unrolled(one.pieces, frame)

    def _pieces(self, layer: Layer) -> tuple[list[Piece], Frame]:
        """What a list is made of, and the names that stand where it is made: in __init__, or in a method of its own."""
        owner = layer.owner
        method = owner.definition.methods.get(call_kind(layer.call))
        if method is None:
            init = owner.definition.init
            pieces = pieces_of(layer.call, init) or appended_to(layer.name.removeprefix(owner.prefix), init)
            return pieces, Frame(self, owner, dict(owner.given), 0)
        names = [one.arg for one in method.args.args[1:]]
        given = dict(zip(names, (self._argument(node, owner) for node in layer.call.args), strict=False))
        given |= {word.arg: self._argument(word.value, owner) for word in layer.call.keywords if word.arg}
        usual = dict(zip(reversed(names), (literal(one, {}) for one in reversed(method.args.defaults)), strict=False))
        frame = Frame(self, owner, {**owner.given, **usual, **given}, 0)
        for target, value in (pair for node in method.body for pair in assigned(node)):
            frame.bind(target, frame.value(value) if not isinstance(value, ast.Call) else ...)
        row = next((node.value for node in ast.walk(method) if isinstance(node, ast.Return)), None)
        return (pieces_of(row, method) if isinstance(row, ast.Call) else []), frame


def _default(node: ast.expr | None) -> object:
    return literal(node, {})
