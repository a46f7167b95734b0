"""graph: small edits of a TFLite object model — find constants, merge equal ones, insert decoders, drop the unused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

import numpy as np


@cache
def schema() -> Any:
    """The schema's generated Python, imported on first use."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@cache
def _names(enum: str) -> dict[int, str]:
    return {v: k for k, v in vars(getattr(schema(), enum)).items() if not k.startswith("_")}


def kind(model: Any, op: Any) -> str:
    """The operator's name in the schema: CONV_2D, DENSIFY, …"""
    code = model.operatorCodes[op.opcodeIndex]
    return _names("BuiltinOperator")[max(code.builtinCode, code.deprecatedBuiltinCode)]


_NUMPY = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_, "FLOAT64": np.float64,
}  # fmt: skip


def dtype_of(tensor: Any) -> str:
    """What numpy calls the type of its entries; empty where it knows none such."""
    found = _NUMPY.get(_names("TensorType")[tensor.type])
    return "" if found is None else np.dtype(found).name


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor with data in one subgraph, and who reads it: (operator, input position)."""

    index: int
    values: np.ndarray
    readers: tuple[tuple[str, int], ...]
    place: int = 0  # of its subgraph


def constants(model: Any, *, floats_only: bool = True, place: int = 0) -> Iterator[Constant]:
    """The constants of one subgraph, the main one unless asked otherwise, whose type numpy knows."""
    graph = model.subgraphs[place]
    readers: dict[int, list[tuple[str, int]]] = {}
    for op in graph.operators:
        for position, tensor in enumerate(op.inputs):
            readers.setdefault(int(tensor), []).append((kind(model, op), position))
    outside = {int(t) for t in [*graph.inputs, *graph.outputs]}
    for index, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        dtype = _NUMPY.get(_names("TensorType")[tensor.type])
        if data is None or not len(data) or dtype is None or index in outside or tensor.sparsity is not None:
            continue
        if floats_only and dtype is not np.float32:
            continue
        shape = tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
        yield Constant(
            index, np.asarray(data, np.uint8).view(dtype).reshape(shape), tuple(readers.get(index, ())), place
        )


def add_tensor(model: Any, like: Any, type_name: str, values: np.ndarray | None, *, place: int = 0) -> int:
    """A new tensor of one subgraph with the shape of `like`; its index."""
    tensor = schema().TensorT()
    tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
    tensor.type = getattr(schema().TensorType, type_name)
    tensor.buffer = 0 if values is None else add_buffer(model, values)
    model.subgraphs[place].tensors.append(tensor)
    return len(model.subgraphs[place].tensors) - 1


def add_buffer(model: Any, values: np.ndarray | bytes) -> int:
    """A new buffer; its index."""
    buffer = schema().BufferT()
    raw = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
    buffer.data = np.frombuffer(raw, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


# of operators whose options are not called as they are, or that have none
_OPTIONS = {"CONV_2D": "Conv2DOptions", "FULLY_CONNECTED": "FullyConnectedOptions"}
_WITHOUT_OPTIONS = {"LOGISTIC", "RELU", "TANH"}


def operator(model: Any, name: str, inputs: list[int], outputs: list[int], *, version: int = 1) -> Any:
    """An operator with default options, not yet placed; `name` is DENSIFY, DEQUANTIZE, MUL, …"""
    op = schema().OperatorT()
    op.opcodeIndex = _opcode(model, getattr(schema().BuiltinOperator, name), version)
    op.inputs, op.outputs = inputs, outputs
    if name in _WITHOUT_OPTIONS:
        return op
    options = _OPTIONS.get(name, name.title() + "Options")
    op.builtinOptionsType = getattr(schema().BuiltinOptions, options)
    op.builtinOptions = getattr(schema(), options + "T")()
    return op


def _opcode(model: Any, builtin: int, version: int) -> int:
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version == version:
            return index
    code = schema().OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


class _Met:
    """Data that were met before: a sum tells nearly all of them apart, and takes a fifteenth of copying and hashing."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], list[tuple[np.ndarray, int]]] = {}

    def first(self, data: Any, number: int, *signs: Any) -> int:
        """The number that came with the first equal data of the same signs; `number` itself where these are the first.

        >>> met = _Met()
        >>> [met.first(data, number) for number, data in enumerate(([1, 2], [1, 3], [1, 2]))]
        [0, 1, 0]
        """
        array = np.asarray(data, np.uint8)
        total = array[: array.size // 8 * 8].view(np.uint64).sum()
        group = self._groups.setdefault((array.size, int(total), *signs), [])
        for earlier, place in group:
            if np.array_equal(earlier, array):
                return place
        group.append((array, number))
        return number


def merge_equal_constants(model: Any) -> None:
    """Let tensors of one subgraph with equal type, shape and data be one tensor, so tied weights are stored once."""
    for graph in model.subgraphs:
        met = _Met()
        replaced: dict[int, int] = {}
        outside = {int(t) for t in [*graph.inputs, *graph.outputs]}
        for index, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data) or index in outside or tensor.sparsity is not None or _scaled(tensor):
                continue
            shape = tuple(tensor.shape) if tensor.shape is not None else ()
            replaced[index] = met.first(data, index, tensor.type, shape)
        for op in graph.operators:
            op.inputs = [replaced.get(int(t), int(t)) for t in op.inputs]


def mean_single_places(model: Any) -> None:
    """Write a sum over axes of extent 1 as the mean it was: XNNPACK's sparse clusters end in MEAN, and know no SUM."""
    found = {c.index: c.values for c in constants(model, floats_only=False)}
    graph = model.subgraphs[0]
    for op in graph.operators:
        if kind(model, op) != "SUM" or int(op.inputs[1]) not in found:
            continue
        shape = graph.tensors[int(op.inputs[0])].shape
        if all(int(shape[int(axis)]) == 1 for axis in found[int(op.inputs[1])].reshape(-1)):
            op.opcodeIndex = _opcode(model, schema().BuiltinOperator.MEAN, 1)


def compact(model: Any) -> None:
    """Drop tensors, buffers and operator codes that nothing uses; equal buffers become one, empty ones buffer 0."""
    buffers = [schema().BufferT()]
    met = _Met()

    def moved(buffer: int) -> int:
        data = model.buffers[buffer].data
        if data is None or not len(data):
            return 0
        place = met.first(data, len(buffers))
        if place == len(buffers):
            buffers.append(model.buffers[buffer])
        return place

    for position, graph in enumerate(model.subgraphs):
        used = {int(t) for op in graph.operators for t in [*op.inputs, *op.outputs, *_list(op.intermediates)]}
        used |= {int(t) for t in [*graph.inputs, *graph.outputs]}
        used |= {index for i in used if i >= 0 for index in _scaled_by(graph.tensors[i])}
        order = [i for i in range(len(graph.tensors)) if i in used]
        new = {old: i for i, old in enumerate(order)} | {-1: -1}
        graph.tensors = [graph.tensors[i] for i in order]
        for tensor in graph.tensors:
            tensor.buffer = moved(tensor.buffer)
        for details in {id(each): each for t in graph.tensors if (each := _blocks_of(t)) is not None}.values():
            details.scales, details.zeroPoints = new.get(details.scales, -1), new.get(details.zeroPoints, -1)
        graph.inputs, graph.outputs = [new[int(t)] for t in graph.inputs], [new[int(t)] for t in graph.outputs]
        for op in graph.operators:
            op.inputs, op.outputs = [new[int(t)] for t in op.inputs], [new[int(t)] for t in op.outputs]
            op.intermediates = [new[int(t)] for t in _list(op.intermediates)] or None
        for signature in model.signatureDefs or []:
            if signature.subgraphIndex == position:
                for entry in [*_list(signature.inputs), *_list(signature.outputs)]:
                    entry.tensorIndex = new[int(entry.tensorIndex)]
    for entry in model.metadata or []:
        entry.buffer = moved(entry.buffer)
    model.metadataBuffer = [moved(int(place)) for place in _list(model.metadataBuffer)] or None
    model.buffers = buffers
    codes = sorted({op.opcodeIndex for graph in model.subgraphs for op in graph.operators})
    model.operatorCodes = [model.operatorCodes[c] for c in codes]
    for graph in model.subgraphs:
        for op in graph.operators:
            op.opcodeIndex = codes.index(op.opcodeIndex)


def name_the_rest(model: Any) -> None:
    """Give every tensor without a name one of its own, after what it is made of: profilers and quantizers ask for it.

    A weight that DENSIFY makes of `fc.weight` is called `fc.weight#densify`.
    """
    taken: set[str] = set()
    for graph in model.subgraphs:
        taken |= {_text(tensor.name) for tensor in graph.tensors if tensor.name}
        made = {int(t): op for op in graph.operators for t in op.outputs}
        for index, tensor in enumerate(graph.tensors):
            if tensor.name:
                continue
            base = "constant"
            if index in made:
                op = made[index]
                source = graph.tensors[int(op.inputs[0])] if len(op.inputs) else tensor
                base = f"{_text(source.name).partition('#')[0]}#{kind(model, op).lower()}".removeprefix("#")
            tensor.name = next(name for name in _numbered(base) if name not in taken)
            taken.add(tensor.name)


def _numbered(base: str) -> Iterator[str]:
    yield base
    yield from (f"{base}{i}" for i in count(1))


def _text(name: str | bytes | None) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""


def _scaled(tensor: Any) -> bool:
    quantization = tensor.quantization
    return quantization is not None and (quantization.scale is not None or quantization.details is not None)


def _blocks_of(tensor: Any) -> Any:
    """How a tensor is quantized by blocks, whose scales are a tensor of their own; None for any other."""
    details = tensor.quantization.details if tensor.quantization is not None else None
    return details if hasattr(details, "blockSize") else None


def _scaled_by(tensor: Any) -> list[int]:
    """The tensors that hold the scales and zero points of its blocks."""
    details = _blocks_of(tensor)
    return [] if details is None else [int(i) for i in (details.scales, details.zeroPoints) if i >= 0]


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)
