"""A file as `quantize --scheme int8` would leave it, told from the file alone: its work and its memory.

Where a format's runtimes compute with integers, quantizers stand wherever floats and integers meet; elsewhere weights
alone become integers. Embeddings, recurrences and norms keep float activations: they take what they took.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from idp_deploy.flow import Contents, GraphOp, StoredTensor, Value
from idp_deploy.formats import FORMATS
from idp_deploy.formats.operators import classes_of
from idp_deploy.formats.prunable import prunable_tensors, tensors_apart
from idp_deploy.simulation.question import Loaded, load
from idp_deploy.simulation.work import as_dtype

_FLOATS = ("float32", "float16")


def in_int8(loaded: Loaded) -> Loaded:
    """What `simulate` would be asked of it then; a description, which has no graph, becomes int8 throughout."""
    if loaded.contents is None:
        return replace(loaded, work=as_dtype(loaded.work, "int8"))
    return load(as_int8(loaded.contents))


def as_int8(contents: Contents) -> Contents:
    """The same graph with what int8 changes; a file with quantizers in it, as it is."""
    if any(classes_of(contents.format).get(op.kind) == "quantizer" for op in contents.ops):
        return contents
    row = FORMATS[contents.format]
    taken = {tensor.name for tensor in (*prunable_tensors(contents), *tensors_apart(contents))}
    tensors = tuple(
        _narrowed(tensor, row.scale_bytes) if tensor.name in taken and tensor.dtype in _FLOATS else tensor
        for tensor in contents.tensors
    )
    contents = replace(contents, tensors=tensors)
    if not row.integers:
        return contents
    graph = _Graph(contents, row.function("integers")(contents))
    return replace(contents, ops=tuple(graph.ops()), values=graph.values)


def _narrowed(tensor: StoredTensor, scale_bytes: int) -> StoredTensor:
    """A byte for each entry that is stored, and a scale for each row."""
    stored = tensor.size - tensor.zeros if tensor.is_sparse else tensor.size
    saved = stored * (tensor.value_bits - 8) / 8 - scale_bytes * (tensor.shape[0] if tensor.shape else 1)
    size = tensor.size_bytes - max(round(saved), 0)
    return replace(tensor, dtype="int8", value_bits=8.0, size_bytes=size)


class _Graph:
    """Operators with quantizers between them.

    Formats with a class of dequantizers write pairs, between which a value is a float in name alone; the others hold
    integers as such.
    """

    def __init__(self, contents: Contents, integers: Mapping[int, bool]) -> None:
        self.contents, self.integers = contents, integers
        self.values = dict(contents.values)
        classes = classes_of(contents.format)
        words = {name: [kind for kind, found in classes.items() if found == name] for name in set(classes.values())}
        self.pairs = "dequantizer" in words
        self.quantizer = words["quantizer"][0]
        self.dequantizer = words.get("dequantizer", words["quantizer"])[-1]
        self.integer: dict[str, str] = {}  # a value → what stands for it where integers are read
        self.float: dict[str, str] = {}  # an integer value → it as floats

    def ops(self) -> Iterator[GraphOp]:
        for place, op in enumerate(self.contents.ops):
            within = place in self.integers
            for name in op.inputs:
                yield from self._quantized(name) if within else self._dequantized(name)
            names = self.integer if within or self.pairs else self.float
            yield replace(op, inputs=tuple(names.get(name, name) for name in op.inputs))
            for name in op.outputs if self.integers.get(place) else ():
                if self.pairs:
                    yield from self._quantized(name)
                elif self._is_float(name):
                    self.values[name] = replace(self.values[name], dtype="int8")
                    self.integer[name] = name
        for name in self.contents.outputs:
            yield from self._dequantized(name)

    def _quantized(self, name: str) -> Iterator[GraphOp]:
        if self._is_float(name) and name not in self.integer:
            self.integer[name] = self._value(f"{name}#int8", name, "int8")
            yield GraphOp(self.integer[name], self.quantizer, (name,), (self.integer[name],))
            if self.pairs:
                integers, self.integer[name] = self.integer[name], self._value(f"{name}#float", name, "float32")
                yield GraphOp(self.integer[name], self.dequantizer, (integers,), (self.integer[name],))

    def _dequantized(self, name: str) -> Iterator[GraphOp]:
        if self.integer.get(name) == name and name not in self.float:
            self.float[name] = self._value(f"{name}#float", name, "float32")
            yield GraphOp(self.float[name], self.dequantizer, (name,), (self.float[name],))

    def _is_float(self, name: str) -> bool:
        return name in self.values and self.values[name].dtype == "float32"

    def _value(self, name: str, like: str, dtype: str) -> str:
        self.values[name] = Value(name, self.values[like].shape, dtype)
        return name
