"""read a .tflite file: weights decoded from however they are stored, operators without DENSIFY and DEQUANTIZE of them.

Written against the published schema alone: no TensorFlow, no LiteRT, and nothing of the exporter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.flow import Contents, GraphOp, Value
from idp_deploy.formats import manifest
from idp_deploy.formats.flatbuffer import Flatbuffer, Table
from idp_deploy.formats.tflite.read.constants import Constants
from idp_deploy.formats.tflite.read.schema import (
    ARGUMENTS,
    IN_SECOND_OPTIONS,
    OPERATORS,
    OPTIONS,
    OTHER_TYPES,
    ROLES,
    SUBGRAPHS,
    TYPES,
)
from idp_deploy.formats.tflite.read.tensors import data_of, shape_of

_IDENTIFIER = b"TFL3"
_DECODERS = ("DENSIFY", "DEQUANTIZE")
_MICRO = "CUSTOM:TFLM_DECODE"  # of TensorFlow Lite Micro; two constants in, a weight out
_MAX_ARGUMENT = 64  # integer constants up to this size are arguments (axes, shapes), not weights


def read_tflite(path: Path) -> Contents:
    """Parse a .tflite file of any origin.

    An operator's attributes are the fields of its options in snake case (`stride_h`, `padding`, `depth_multiplier`,
    `fused_activation_function`, …) and its small integer constants (`axes`, `paddings`, `perm`, `shape`, `size`, or
    the input's position). Its weights go by "weight" and "bias", or by position. Values lie as in the file: (N, H, W,
    C); convolution weights (out, kh, kw, in), depthwise ones (1, kh, kw, out). The operators of subgraphs that an
    operator calls follow it, their values under "<subgraph>/".

    Raises:
        FileError: missing, truncated, contradictory, or larger when decoded than its bytes can justify.
    """
    path = Path(path)
    try:
        data = documents.read_bytes(path)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    file = Flatbuffer(data, path, "TFLite")
    if data[4:8] != _IDENTIFIER:
        raise FileError(f"{path} is not a TFLite file: it lacks the identifier TFL3", way_out="check the path")
    model = file.root()
    reader = _Reader(file, model)
    if not reader.graphs:
        raise file.broken("it has no subgraph")
    reader.walk(0)
    metadata, main = _metadata(file, model, reader), reader.graphs[0]
    beside = reader.beside(model.tables(7))
    return Contents(
        path=path,
        format="tflite",
        size_bytes=len(data),
        tensors=tuple(reader.constants.found.values()),
        ops=tuple(reader.ops),
        values=reader.values,
        inputs=tuple(reader.value(0, i) for i in main.integers(1)),
        outputs=tuple(reader.output(i) for i in main.integers(2)),
        metadata=metadata,
        warnings=tuple(reader.warnings),
        beside=beside,
        parsed=data,
    )


class _Reader:
    """Walks the subgraphs and collects operators, values and constants."""

    def __init__(self, file: Flatbuffer, model: Table) -> None:
        self.file = file
        self.graphs = model.tables(2)
        self.buffers = model.tables(4)
        self.codes = [_kind(code) for code in model.tables(1)]
        self.tensors = [graph.tables(0) for graph in self.graphs]
        self.constants = Constants(file, self.buffers)
        self.ops: list[GraphOp] = []
        self.values: dict[str, Value] = {}
        self.warnings: list[str] = []
        self._names: dict[tuple[int, int], str] = {}
        self._taken: set[str] = set()
        self._walked: set[int] = set()
        self._micro: dict[tuple[int, int], tuple[Table, Table]] = {}  # bits → header and values, what they stand for
        self._decoded: dict[tuple[int, int], int] = {}  # tensor written by a decoder → the constant it decodes

    def walk(self, graph: int) -> None:
        """Collect one subgraph's operators, and after each those it calls."""
        pending = [iter(self._operators(graph))]
        self._walked.add(graph)
        while pending:
            called = next(pending[-1], None)
            if called is None:
                pending.pop()
            elif called not in self._walked:
                self._walked.add(called)
                pending.append(iter(self._operators(called)))

    def beside(self, signatures: list[Table]) -> tuple[GraphOp, ...]:
        """Operators of the signatures whose subgraphs no operator of the first calls; their constants are listed."""
        count = len(self.ops)
        for signature in signatures:
            graph = signature.number(4, "I")
            if graph not in self._walked:
                self._warn(f"signature '{signature.text(2)}' runs by itself: its weights are counted, its time is not")
                self.walk(graph)
        found = tuple(self.ops[count:])
        del self.ops[count:]
        return found

    def _operators(self, graph: int) -> Any:
        """Collect operators one by one, yielding the subgraphs they call."""
        for op in self.graphs[graph].tables(3):
            code = op.number(0, "I")
            if code >= len(self.codes):
                raise self.file.broken(f"operator code {code} of {len(self.codes)}")
            kind, inputs, outputs = self.codes[code], op.integers(1), op.integers(2)
            source = self.source(graph, inputs[0]) if len(inputs) == 1 and inputs[0] >= 0 else None
            if kind in _DECODERS and len(outputs) == 1 and source is not None:
                self.tensor(graph, outputs[0])
                self._decoded[graph, outputs[0]] = source
                continue
            if kind == _MICRO and len(outputs) == 1 and self._packed(graph, inputs, outputs[0]):
                continue
            attributes = _attributes(op, kind)
            read, weights = self._inputs(graph, kind, inputs, attributes)
            results = tuple(self.value(graph, i) for i in outputs if i >= 0)
            name = results[0] if results else f"{kind.lower()}_{len(self.ops)}"
            self.ops.append(GraphOp(name, kind, read, results, attributes, weights))
            for word in SUBGRAPHS:
                if word in attributes:
                    if not 0 <= attributes[word] < len(self.graphs):
                        raise self.file.broken(f"subgraph {attributes[word]} of {len(self.graphs)}")
                    if kind == "WHILE":
                        self._warn("the operators inside of WHILE are listed once, however often they run")
                    yield attributes[word]

    def _inputs(
        self, graph: int, kind: str, inputs: list[int], attributes: dict[str, Any]
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """Activations in order, and weights by role; small constants become attributes."""
        read, weights = [], {}
        for position, index in enumerate(inputs):
            if index < 0:
                continue
            source = self.source(graph, index)
            role = ROLES.get(kind, {}).get(position, "")
            if source is None:
                read.append(self.value(graph, index))
                continue
            argument = None if role else self.constants.argument(self.tensors[graph][source], _MAX_ARGUMENT)
            if argument is not None:
                attributes[ARGUMENTS.get(kind, {}).get(position, str(position))] = argument
                continue
            name = self._name(graph, source) if source != index else self._name(graph, index)
            packed = self._micro.get((graph, source))
            weights[role or str(position)] = (
                self.constants.packed(self.tensors[graph][source], *packed, name)
                if packed
                else self.constants.tensor(self.tensors[graph][source], name)
            )
        return tuple(read), weights

    def _packed(self, graph: int, inputs: list[int], output: int) -> bool:
        """Whether a decoder unpacks a pruned weight, now noted; its other kinds stay operators."""
        if len(inputs) != 2 or any(self.source(graph, index) != index for index in inputs):
            return False
        bits, rest = (self.tensor(graph, index) for index in inputs)
        if not self.constants.is_pruned(rest):
            return False
        self._decoded[graph, output] = inputs[0]
        self._micro[graph, inputs[0]] = rest, self.tensor(graph, output)
        return bits is not rest

    def tensor(self, graph: int, index: int) -> Table:
        """The tensor's table."""
        if not 0 <= index < len(self.tensors[graph]):
            raise self.file.broken(f"tensor {index} of {len(self.tensors[graph])}")
        return self.tensors[graph][index]

    def source(self, graph: int, index: int) -> int | None:
        """The constant behind a tensor, or None for an activation."""
        tensor = self.tensor(graph, index)
        if (graph, index) in self._decoded:
            return self._decoded[graph, index]
        return index if self.constants.data(tensor) is not None else None

    def value(self, graph: int, index: int) -> str:
        """The name of an activation, now listed."""
        name = self._name(graph, index)
        if name not in self.values:
            tensor = self.tensor(graph, index)
            code = tensor.number(1, "b")
            dtype = TYPES[code][0] if code in TYPES else OTHER_TYPES.get(code, "unknown")
            self.values[name] = Value(name, shape_of(tensor), dtype)
        return name

    def output(self, index: int) -> str:
        """The name of an output, be it computed or a constant."""
        source = self.source(0, index)
        if source is not None:
            self.constants.tensor(self.tensors[0][source], self._name(0, source))
        return self.value(0, index)

    def _name(self, graph: int, index: int) -> str:
        """A name that no other tensor has."""
        if (graph, index) not in self._names:
            plain = self.tensor(graph, index).text(3) or f"tensor_{index}"
            name = f"{graph}/{plain}" if graph else plain
            if name in self._taken:
                name = f"{name}#{index}"
            while name in self._taken:
                name += "'"
            self._taken.add(name)
            self._names[graph, index] = name
        return self._names[graph, index]

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _kind(code: Table) -> str:
    builtin = max(code.number(0, "b"), code.number(3, "i"))
    name = OPERATORS[builtin] if 0 <= builtin < len(OPERATORS) else f"BUILTIN_{builtin}"
    return f"CUSTOM:{code.text(1)}" if name == "CUSTOM" else name


def _attributes(op: Table, kind: str) -> dict[str, Any]:
    options = op.table(12 if kind in IN_SECOND_OPTIONS else 4) if kind in OPTIONS else None
    return {name: read(options, field) for name, (field, read) in OPTIONS[kind].items()} if options else {}


def _metadata(file: Flatbuffer, model: Table, reader: _Reader) -> dict[str, Any]:
    """Our manifest where there is a valid one, signatures, and who wrote the file."""
    metadata: dict[str, Any] = {"description": model.text(3), "schema_version": model.number(0, "I")}
    for entry in model.tables(6):
        name, buffer = entry.text(0), entry.number(1, "I")
        if buffer >= len(reader.buffers):
            raise file.broken(f"metadata {name!r} in buffer {buffer} of {len(reader.buffers)}")
        data = data_of(file, reader.buffers[buffer])
        if name == manifest.KEY and data is not None:
            found, warning = manifest.parse(data.tobytes())
            metadata |= {manifest.KEY: found} if found is not None else {}
            reader.warnings.extend([warning] if warning else [])
        elif name == "min_runtime_version" and data is not None:
            metadata[name] = data.tobytes().rstrip(b"\0").decode(errors="replace")
    signatures = {}
    for signature in model.tables(7):
        graph = signature.number(4, "I")
        if graph >= len(reader.graphs):
            raise file.broken(f"a signature of subgraph {graph} of {len(reader.graphs)}")
        name_of: Callable[[Table], str] = lambda entry, graph=graph: reader._name(graph, entry.number(1, "I"))  # type: ignore[misc] # noqa: E731
        signatures[signature.text(2)] = {
            role: {entry.text(0): name_of(entry) for entry in signature.tables(field)}
            for field, role in enumerate(("inputs", "outputs"))
        }
    return metadata | {"signatures": signatures}
