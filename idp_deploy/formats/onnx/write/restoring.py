"""restore an .onnx file: the zeros that another tool stored densely are left out again. Imports no torch.

A tool that folds constants (onnxslim, onnxruntime's own optimizer, a graph editor) writes our sparse weights out, and
a pruner of another kind never left them out. The graph stays as that tool made it; only its constants are stored
anew, and notes that no runtime reads are dropped. A weight is stored in narrower numbers only where these mean exactly
the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, version_converter

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Contents
from idp_deploy.formats import manifest
from idp_deploy.formats.onnx.bodies import lift, put_in_order
from idp_deploy.formats.onnx.write.decoding import Decoder
from idp_deploy.formats.onnx.write.nodes import all_nodes
from idp_deploy.formats.onnx.write.number_forms import exact_forms
from idp_deploy.formats.onnx.write.storing import ENCODABLE, ENCODINGS, SHARED_ENTRIES, Store, Weight, choose, cost
from idp_deploy.formats.onnx.write.tidying import tidy

OLDEST_OPSET = 11  # CumSum and ScatterElements
_SPLIT_OPSET = 13  # the sizes of Split are an input
_BITWISE_OPSET = 18  # BitwiseAnd
_PRODUCT_ENTRIES = 16  # a scale of fewer entries is cheaper stored than multiplied again
_LARGEST_MESSAGE = 2**31 - 2**20  # a protobuf message holds 2 GB
_DOMAINS = ("", "ai.onnx")
_INTEGERS = {np.dtype(t) for t in (np.int8, np.uint8, np.int16, np.uint16)}


def restored_onnx(contents: Contents, *, encoding: str = "auto") -> Iterator[bytes]:
    """The file with its constants stored sparse: one way, or none where nothing would be sparse.

    Raises:
        ConversionError: its opset has no operators to decode with, or it does not fit into one file.
        UsageError: an unknown encoding, or one that its opset has no operator for.
    """
    if encoding not in ENCODINGS:
        raise UsageError(f"unknown ONNX encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    source = contents.path
    proto = onnx.load(source)
    _constants_alone(proto)
    proto = _raised(proto, source)
    opset = _opset(proto)
    if encoding == "auto" and opset < _BITWISE_OPSET:
        encoding = "portable"
    if encoding == "bitmask" and opset < _BITWISE_OPSET:
        raise UsageError(
            f"{source} uses ONNX opset {opset}; the encoding bitmask needs BitwiseAnd of opset {_BITWISE_OPSET}",
            way_out="--encoding portable",
        )
    if any(_may_hold(node) for function in proto.functions for node in function.node):
        proto = inliner.inline_local_functions(proto, convert_version=True)
    graph = proto.graph
    put_in_order(graph)
    lift(graph, nested=False)
    tensors = [*_constants(graph), *map(_dense, graph.sparse_initializer), *graph.initializer]
    # values that a caller may replace, and words, which are not numbers
    left = {value.name for value in graph.input} | {t.name for t in tensors if t.data_type == onnx.TensorProto.STRING}
    del graph.initializer[:], graph.sparse_initializer[:]
    graph.initializer.extend(tensor for tensor in tensors if tensor.name in left)
    constants = {t.name: numpy_helper.to_array(t) for t in tensors if t.name not in left}
    _fold_masks(graph, constants, encoding)
    products = _products(graph, constants)
    weights = []
    for name, values in constants.items():
        if name in products:
            continue
        if _is_sound(values):
            fill = _usual(values)
            plain = Weight(name, values, values != fill, fill=fill)
            weights.append(min([plain, *exact_forms(plain)], key=lambda weight: cost(weight, encoding)))
    if all(choose(weight, encoding) == "dense" for weight in weights):
        return
    decoder = Decoder(graph)
    store = Store(decoder, encoding, weights, grouped=opset >= _SPLIT_OPSET)
    for weight in weights:
        store.add(weight)
    for name in constants.keys() - products.keys() - {weight.name for weight in weights}:
        decoder.store(constants[name], name)
    for name, factors in products.items():
        decoder.node("Mul", *factors, output=name)
    _without_notes(graph)
    tidy(graph, decoder, constants.keys())
    decoder.finish()
    for entry in proto.metadata_props:
        if entry.key == manifest.KEY:
            entry.value = manifest.stored_anew(entry.value, encoding) or entry.value
    if proto.ByteSize() > _LARGEST_MESSAGE:
        raise ConversionError(f"{source} takes more than 2 GB without its zeros", way_out="prune it further first")
    yield proto.SerializeToString(deterministic=True)


def _opset(proto: onnx.ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in _DOMAINS), 1)


def _raised(proto: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """The model in an opset that has the operators to decode with."""
    opset = _opset(proto)
    if opset >= OLDEST_OPSET:
        return proto
    try:
        raised = version_converter.convert_version(proto, OLDEST_OPSET)
    except Exception as error:  # it has no way for an operator, or for a graph inside of one
        raise ConversionError(
            f"{source} uses ONNX opset {opset}; sparse weights need opset {OLDEST_OPSET} or newer, and onnx does not "
            f"raise it: {error}",
            way_out="write the file with a newer opset first",
        ) from error
    del raised.metadata_props[:]
    raised.metadata_props.extend(proto.metadata_props)
    return raised


def _usual(values: np.ndarray) -> int:
    """What most entries are: 0 but for integers, which mean zero where they equal a zero point."""
    if values.dtype not in _INTEGERS or np.count_nonzero(values) < values.size / 2:
        return 0
    lowest = np.iinfo(values.dtype).min
    return int(np.bincount(values.reshape(-1).astype(np.int32) - lowest).argmax()) + int(lowest)


def _is_sound(values: np.ndarray) -> bool:
    """No infinity among them, as masks of attention have: zeros are left out of finite numbers only."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Take the tensors out of the graph's Constant nodes."""
    found, kept = [], []
    for node in graph.node:
        tensor = _tensor(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            found.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    return found


def _tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node gives, where that may be a weight."""
    if node.op_type != "Constant" or node.domain not in _DOMAINS or not node.attribute:
        return None
    attribute = node.attribute[0]
    tensor = attribute.t if attribute.name == "value" else None
    if attribute.name == "value_floats":
        tensor = numpy_helper.from_array(np.array(attribute.floats, np.float32))
    elif attribute.name == "sparse_value":
        tensor = _dense(attribute.sparse_tensor)
    return tensor if tensor is not None and np.prod(tensor.dims) >= SHARED_ENTRIES else None


def _may_hold(node: onnx.NodeProto) -> bool:
    """Whether a node of a function gives a tensor that may be a weight, its own or one that its caller hands over."""
    return _tensor(node) is not None or (
        node.op_type == "Constant" and any(attribute.ref_attr_name for attribute in node.attribute)
    )


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """ONNX's own sparse constant with its zeros; indices are flat, or coordinates."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    out = np.zeros(shape, values.dtype)
    out[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, shape)] = values
    return numpy_helper.from_array(out, sparse.values.name)


def _fold_masks(graph: onnx.GraphProto, constants: dict[str, np.ndarray], encoding: str) -> None:
    """Replace weights that the graph multiplies by a mask by what comes of it, which needs no mask and no weight.

    `torch.nn.utils.prune` leaves the pair in a module until it is told to make the pruning permanent. A mask may also
    choose between a weight and zero. What is cast from numbers that no runtime decodes (bfloat16, float8) is stored as
    what it is cast to where that is smaller without its zeros.
    """
    kept = []
    for node in graph.node:
        factors = [constants[name] for name in node.input if name in constants]
        if len(factors) != len(node.input) or node.domain not in _DOMAINS:
            kept.append(node)
        elif node.op_type == "Cast" and _is_free(factors[0], cast := _cast(factors[0], node), encoding):
            constants[node.output[0]] = cast
        elif node.op_type == "Where" and _is_choice(*factors):
            constants[node.output[0]] = np.where(*factors)
        elif node.op_type == "Mul" and _is_masked(*factors):
            constants[node.output[0]] = factors[0] * factors[1]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in all_nodes(graph) for name in node.input} | {value.name for value in graph.output}
    for name in constants.keys() - read:
        del constants[name]


def _cast(values: np.ndarray, node: onnx.NodeProto) -> np.ndarray:
    to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    return values.astype(helper.tensor_dtype_to_np_dtype(to))


def _is_free(values: np.ndarray, cast: np.ndarray, encoding: str) -> bool:
    """Whether a cast constant takes no more bytes than the one it comes from, or is a mask's."""
    if _is_mask(values):
        return values.size >= SHARED_ENTRIES
    if values.ndim < 2 or cast.dtype.itemsize <= values.dtype.itemsize:
        return values.ndim > 1
    bare = Weight("", cast, cast != 0)
    return values.dtype not in ENCODABLE and _is_sound(cast) and cost(bare, encoding) < values.nbytes


def _is_choice(mask: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """A matrix where a mask is set, 0 elsewhere; or the other way round."""
    return any(_spans(matrix, mask, other) and not other.any() for matrix, other in ((a, b), (b, a)))


def _spans(matrix: np.ndarray, *others: np.ndarray) -> bool:
    """Whether a matrix keeps its shape beside the others."""
    try:
        shape = np.broadcast_shapes(*(each.shape for each in (matrix, *others)))
    except ValueError:  # the runtime's to say
        return False
    return matrix.shape == shape and matrix.ndim > 1 and matrix.size >= SHARED_ENTRIES


def _is_masked(a: np.ndarray, b: np.ndarray) -> bool:
    """A matrix and a mask of its entries, rows or columns."""
    return any(_spans(matrix, mask) and mask.ndim > 0 and _is_mask(mask) for matrix, mask in ((a, b), (b, a)))


def _is_mask(values: np.ndarray) -> bool:
    return bool(values.dtype == bool or np.isin(values, (0, 1)).all())


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


def _constants_alone(proto: onnx.ModelProto) -> None:
    """Before IR 4 every constant was listed among the inputs as well; since then that means that it can be replaced."""
    if proto.ir_version < 4:
        proto.ir_version = 4
        stored = {tensor.name for tensor in proto.graph.initializer}
        kept = [value for value in proto.graph.input if value.name not in stored]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
