"""restore an .onnx file: the zeros that another tool stored densely are left out again. Imports no torch.

A tool that folds constants (onnxslim, onnxruntime's own optimizer, a graph editor) writes our sparse weights out, and
a pruner of another kind never left them out. The graph stays as that tool made it; only its constants are stored
anew, and notes that no runtime reads are dropped. A weight is stored in narrower numbers only where these mean exactly
the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Contents
from idp_deploy.formats.onnx.write.decoding import Decoder
from idp_deploy.formats.onnx.write.nodes import all_nodes
from idp_deploy.formats.onnx.write.number_forms import exact_forms
from idp_deploy.formats.onnx.write.storing import ENCODINGS, SHARED_ENTRIES, Store, Weight, choose, cost

OLDEST_OPSET = 11  # CumSum and ScatterElements
_SPLIT_OPSET = 13  # the sizes of Split are an input
_BITWISE_OPSET = 18  # BitwiseAnd
_PRODUCT_ENTRIES = 16  # a scale of fewer entries is cheaper stored than multiplied again
_LARGEST_MESSAGE = 2**31 - 2**20  # a protobuf message holds 2 GB
_DOMAINS = ("", "ai.onnx")


def restored_onnx(contents: Contents, *, encoding: str = "auto") -> Iterator[bytes]:
    """The file with its constants stored sparse: one way, or none where nothing would be sparse.

    Raises:
        ConversionError: its opset has no operators to decode with, or it does not fit into one file.
        UsageError: an unknown encoding.
    """
    if encoding not in ENCODINGS:
        raise UsageError(f"unknown ONNX encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    source = contents.path
    proto = onnx.load(source)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in _DOMAINS), 1)
    if opset < OLDEST_OPSET:
        raise ConversionError(
            f"{source} uses ONNX opset {opset}; sparse weights need opset {OLDEST_OPSET} or newer",
            way_out="write the file with a newer opset first (onnx.version_converter.convert_version)",
        )
    if encoding == "auto" and opset < _BITWISE_OPSET:
        encoding = "portable"
    graph = proto.graph
    tensors = [*_constants(graph), *graph.initializer]
    del graph.initializer[:]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    products = _products(graph, constants)
    weights = []
    for name, values in constants.items():
        if name in products:
            continue
        plain = Weight(name, values, values != 0)
        weights.append(min([plain, *exact_forms(plain)], key=lambda weight: cost(weight, encoding)))
    if all(choose(weight, encoding) == "dense" for weight in weights):
        return
    decoder = Decoder(graph)
    store = Store(decoder, encoding, weights, grouped=opset >= _SPLIT_OPSET)
    for weight in weights:
        store.add(weight)
    for name, factors in products.items():
        decoder.node("Mul", *factors, output=name)
    decoder.finish()
    _no_longer_inputs(graph)
    _without_notes(graph)
    if proto.ByteSize() > _LARGEST_MESSAGE:
        raise ConversionError(f"{source} takes more than 2 GB without its zeros", way_out="prune it further first")
    yield proto.SerializeToString(deterministic=True)


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Take the tensors out of the graph's Constant nodes."""
    found, kept = [], []
    for node in graph.node:
        constant = node.op_type == "Constant" and node.domain in _DOMAINS
        tensor = next((a.t for a in node.attribute if constant and a.name == "value"), None)
        if tensor is not None and np.prod(tensor.dims) >= SHARED_ENTRIES:
            tensor.name = node.output[0]
            found.append(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return found


def _products(graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """Scales of int32 biases, as names: bias → (input, weight) whose product it is, bit for bit.

    That is how an int8 layer's bias is rounded, and what a tool that folds constants writes out: four bytes a channel.
    """
    scales = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, tuple[str, str]] = {}
    for node in graph.node:
        triple = [scales.get(name, "") for name in node.input]
        if len(triple) != 3 or not all(name in constants for name in triple):
            continue
        x, weight, bias = triple
        if constants[x].size != 1:
            continue  # activations with a scale a channel: their bias is no such product
        values, product = constants[bias], constants[x] * constants[weight]
        same = values.dtype == product.dtype and np.array_equal(values, product)
        if same and values.size >= _PRODUCT_ENTRIES and bias not in (x, weight):
            found[bias] = x, weight
    factors = {name for pair in found.values() for name in pair}
    return {bias: pair for bias, pair in found.items() if bias not in factors}


def _without_notes(graph: onnx.GraphProto) -> None:
    """Drop what no runtime reads: documentation, where in its source a node came from, shapes that can be inferred."""
    nodes = list(all_nodes(graph))
    for named in (graph, *nodes, *graph.input, *graph.output):
        named.doc_string = ""
        del named.metadata_props[:]
    if all(node.domain in _DOMAINS for node in nodes):
        del graph.value_info[:]


def _no_longer_inputs(graph: onnx.GraphProto) -> None:
    """Old files list constants among the inputs as well; what nodes restore now must not stand there."""
    restored = {name for node in graph.node for name in node.output}
    kept = [value for value in graph.input if value.name not in restored]
    del graph.input[:]
    graph.input.extend(kept)
