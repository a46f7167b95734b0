"""read: .aimodel → Contents. Apple's libraries take the bytecode apart in a child; what they say is decoded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy import files
from idp_deploy.errors import FileError
from idp_deploy.flow import INSIDE, Contents, GraphOp, StoredTensor, Value
from idp_deploy.formats import manifest
from idp_deploy.formats.coreai.native import CoreAI
from idp_deploy.formats.coreai.read import package
from idp_deploy.formats.coreai.read.inlining import entry
from idp_deploy.formats.coreai.read.program import Graph, Op, Typed, parse
from idp_deploy.formats.coreai.read.weights import Weights
from idp_deploy.formats.decoded import stored_tensor

_FEW = 64  # integers up to which a constant is an operator's setting, no table
_CONVOLUTION = ("input", "weight", "strides", "dilations", "groups")
_POOL = ("input", "kernel_sizes", "strides", "dilations", "ceil_mode")
_ROLES: Mapping[str, tuple[str, ...]] = {
    "conv2d": _CONVOLUTION,
    "conv3d": _CONVOLUTION,
    "conv_transpose2d": ("input", "weight", "strides", "padding", "dilations", "output_pad", "groups"),
    "conv_transpose3d": ("input", "weight", "strides", "padding", "dilations", "output_pad", "groups"),
    **dict.fromkeys(("max_pool_2d", "max_pool_3d", "sum_pool_2d", "sum_pool_3d"), _POOL),
}


@dataclass(frozen=True, eq=False)
class Parsed:
    """What running a package needs: the program in its child, and the types of what goes in, by name."""

    native: CoreAI
    inputs: Mapping[str, Value]


def read_coreai(path: Path) -> Contents:
    """Parse an .aimodel of any maker.

    A sparse tensor's zeros are those its mask leaves out; a dense one's are counted in its numbers.

    Raises:
        FileError: a part is missing or broken, or its weights do not decode.
        MissingDependencyError: Apple's libraries, which alone know the bytecode, are not installed.
    """
    parts = package.load(path)
    native = CoreAI(parts.bytecode, str(path))
    try:
        graph = entry(parse(*native.program()))
        found = _Reading(graph)
        tensors, ops = tuple(found.tensors.values()), tuple(found.graph_ops())
    except FileError as error:
        raise FileError(f"{path}: {error.message}", way_out=error.way_out or "export the package again") from error
    metadata, warnings = _metadata(parts.metadata)
    inputs = {name: found.value(value) for name, value in graph.inputs}
    return Contents(
        path,
        "coreai",
        files.size_bytes(path),
        tensors,
        ops,
        found.values,
        tuple(name for name, _ in graph.inputs),
        tuple(name for name, _ in graph.outputs),
        metadata | {"producer": parts.producer},
        (*parts.warnings, *warnings),
        Parsed(native, inputs),
    )


class _Reading:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        everything = tuple(_flattened(graph.ops))
        self.weights = Weights(everything)
        typed = {value.id: value for op in everything for value in op.results}
        typed |= {value.id: value for _, value in graph.inputs}
        self.names = {value.id: name for name, value in graph.inputs}
        for name, number in graph.outputs:
            self.names.setdefault(number, name)
        used = {number for op in everything if not self._decodes(op) for number in op.operands}
        used |= {number for _, number in graph.outputs}
        self.tensors, self.places = self._tensors(everything, used)
        live = {number: value for number, value in typed.items() if number not in self.weights}
        self.values = {self._name(number): self.value(value) for number, value in live.items()}
        for name, number in graph.outputs:
            if number in typed:
                self.values.setdefault(name, self.value(typed[number], name))

    def value(self, value: Typed, name: str = "") -> Value:
        return Value(name or self._name(value.id), value.shape or (), value.dtype)

    def _name(self, number: int) -> str:
        return self.names.get(number, f"value_{number}")

    def _decodes(self, op: Op) -> bool:
        return len(op.results) == 1 and op.results[0].id in self.weights

    def _tensors(self, ops: tuple[Op, ...], used: set[int]) -> tuple[dict[str, StoredTensor], dict[int, str]]:
        """(tensors by name, number of a weight → its tensor's name)."""
        wanted = {self.weights.source(number) for number in used if number in self.weights}
        tensors: dict[str, StoredTensor] = {}
        places: dict[int, str] = {}
        taken: Counter[str] = Counter()
        for op in ops:
            if not self._decodes(op) or op.results[0].id not in wanted or not _is_weight(op):
                continue
            number = op.results[0].id
            name = op.label or f"constant_{len(places)}"
            taken[name] += 1
            name = name if taken[name] == 1 else f"{name}_{taken[name]}"
            tensors[name] = stored_tensor(name, partial(self.weights.decode, number))
            places[number] = name
        return tensors, places

    def graph_ops(self) -> Iterator[GraphOp]:
        """Operators that run, in order."""
        for position, op in enumerate(op for op in self.graph.ops if not self._decodes(op)):
            roles, inputs = _ROLES.get(op.kind, ()), []
            weights: dict[str, str] = {}
            attributes: dict[str, Any] = dict(op.attributes)
            for at, number in enumerate(op.operands):
                role = roles[at] if at < len(roles) else f"operand_{at}"
                place = self.places.get(self.weights.source(number)) if number in self.weights else None
                if place is not None:
                    weights[role] = place
                elif number in self.weights:
                    attributes[role] = _plain(self.weights.decode(number).values)
                elif number >= 0:
                    inputs.append(self._name(number))
            inner = {n for one in _flattened(op.inside) if not self._decodes(one) for n in one.operands}
            read = sorted(self.places[s] for s in {self.weights.source(n) for n in inner if n in self.weights}
                          if s in self.places)  # fmt: skip
            weights |= {f"{INSIDE}{at}": name for at, name in enumerate(read)}
            outputs = tuple(self._name(value.id) for value in op.results)
            yield GraphOp(f"{op.kind}_{position}", op.kind, tuple(inputs), outputs, attributes, weights)


def _flattened(ops: tuple[Op, ...]) -> Iterator[Op]:
    """Operators with those of their bodies before them."""
    for op in ops:
        yield from _flattened(op.inside)
        yield op


def _is_weight(op: Op) -> bool:
    """A tensor of numbers, as opposed to strides, axes and flags."""
    if op.constant is None:
        return True
    shape, is_float = op.constant.shape, "float" in op.constant.dtype
    return len(shape) > 0 and (is_float or op.constant.size > _FEW)


def _plain(values: np.ndarray) -> Any:
    return values.reshape(-1)[:1].tolist()[0] if not values.shape and values.size else values.tolist()


def _metadata(custom: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the file's own entries, ours parsed; warnings)."""
    metadata = dict(custom)
    raw = metadata.pop(manifest.KEY, None)
    if not isinstance(raw, str):
        return metadata, ()
    found, warning = manifest.parse(raw)
    return (metadata, (warning,)) if found is None else (metadata | {manifest.KEY: found}, ())
