"""restore an .onnx file: the zeros that another tool stored densely are left out again. Imports no torch.

A tool that folds constants (onnxslim, onnxruntime's own optimizer, a graph editor) writes our sparse weights out, and
a pruner of another kind never left them out. The graph stays as that tool made it; only its constants are stored
anew, and notes that no runtime reads are dropped. A weight is stored in narrower numbers only where these mean exactly
the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Contents
from idp_deploy.formats import manifest
from idp_deploy.formats.external_data import data_beside
from idp_deploy.formats.onnx.bodies import (
    lift,
    names_around,
    names_at,
    names_in,
    put_in_order,
    rename,
    stored_bytes,
    subgraphs,
    tensors_in,
)
from idp_deploy.formats.onnx.functions import hand_over, inlined
from idp_deploy.formats.onnx.write.constants import DOMAINS, densified, may_hold, take_constants
from idp_deploy.formats.onnx.write.decoding import NARROW, NARROW_OPSET, WIDER, Decoder
from idp_deploy.formats.onnx.write.masked import fold_masks
from idp_deploy.formats.onnx.write.nodes import all_nodes
from idp_deploy.formats.onnx.write.notes import drop_notes
from idp_deploy.formats.onnx.write.number_forms import exact_forms, usual
from idp_deploy.formats.onnx.write.storing import (
    ENCODABLE,
    ENCODINGS,
    SPARSE_INITIALIZER,
    Store,
    Weight,
    cost,
    is_sound,
)
from idp_deploy.formats.onnx.write.tidying import tidy

OLDEST_OPSET = 11  # CumSum and ScatterElements
_PLACES_OPSET = 11  # a resize says which places it reads; onnx's converter leaves the new default, half a pixel off
_SPLIT_OPSET = 13  # the sizes of Split are an input
_BITWISE_OPSET, _BITWISE_IR = 18, 8  # BitwiseAnd
_MAPPED_BYTES = 1 << 20
_DECODING = ("ScatterElements", "GatherElements", "Add", "Mul")  # behind running sums
_PRODUCT_ENTRIES = 16  # a scale of fewer entries is cheaper stored than multiplied again
_LARGEST_MESSAGE = 2**31 - 2**20  # a protobuf message holds 2 GB


def restored_onnx(contents: Contents, *, encoding: str = "auto") -> Iterator[bytes]:
    """The file with its constants stored sparse in every way that may pay, none where nothing would be sparse.

    Weights inside of branches and loops are restored in front of these, or else where they stand: onnxruntime does not
    load some integers from the graph around. Then comes one that leaves int4 and float8 dense, which onnxruntime casts
    since 1.23; last a form that keeps every -0, where dividing by a weight tells: an empty one where nothing would then
    be sparse.

    Raises:
        ConversionError: its opset has no operators to decode with, or it does not fit into one file.
        UsageError: an unknown encoding, or one that its opset has no operator for.
    """
    if encoding not in ENCODINGS:
        raise UsageError(f"unknown ONNX encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    path = contents.path
    form, has_bodies, narrow = _first(path, encoding)  # its model is not kept while a runtime looks at the form
    if form:
        yield form
    if has_bodies and (form := _form(_loaded(path), path, encoding, lifted=False)):
        yield form
    if form and narrow and (wide := _form(_loaded(path), path, encoding, lifted=not has_bodies, narrow=False)):
        yield wide
    if form:
        signed = _form(_loaded(path), path, encoding, lifted=not has_bodies, signed=True)
        if signed is not None:
            yield signed


def _first(path: Path, encoding: str) -> tuple[bytes | None, bool, bool]:
    """The smallest form, whether operators have graphs inside of them, and whether there are numbers like int4."""
    proto = _loaded(path)
    has_bodies = any(True for node in proto.graph.node for _ in subgraphs(node))
    narrow = any(tensor.data_type in NARROW for tensor in tensors_in(proto))
    return _form(proto, path, encoding), has_bodies, narrow


def _loaded(source: Path) -> onnx.ModelProto:
    """The model with its data, in an opset to decode with, in order, and with the weights of its functions."""
    proto = onnx.load(source, load_external_data=False)
    is_old = any(entry.domain in DOMAINS and entry.version < OLDEST_OPSET for entry in proto.opset_import)
    _take_in(proto, source, least=inf if is_old else _MAPPED_BYTES)
    _constants_alone(proto)
    proto = _raised(proto, source)
    hand_over(proto, nested=False)
    if any(may_hold(node) for function in proto.functions for node in function.node):
        proto = inlined(proto)
    put_in_order(proto.graph)
    return proto


def _take_in(proto: onnx.ModelProto, source: Path, least: float = inf) -> None:
    """The data beside the file, where links lead as well, which onnx does not follow.

    Args:
        least: weights of as many bytes stay there, and are mapped when they are stored anew.
    """
    for tensor in tensors_in(proto):
        if uses_external_data(tensor):
            fields = {entry.key: entry for entry in tensor.external_data}
            data = data_beside(source, fields["location"].value)
            assert data is not None  # it has been read
            if _mapped_type(tensor) and stored_bytes(tensor) >= least:
                fields["location"].value = str(data)
                continue
            fields["location"].value = data.name
            if "length" not in fields:  # onnx reads to the end of the file
                tensor.external_data.add(key="length", value=str(stored_bytes(tensor)))
            load_external_data_for_tensor(tensor, str(data.parent))
            tensor.ClearField("data_location")
            del tensor.external_data[:]


def _mapped_type(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is a matrix of numbers that numpy has as well, as they lie in the file."""
    return len(tensor.dims) > 1 and helper.tensor_dtype_to_np_dtype(tensor.data_type) in ENCODABLE


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    """The entries of a tensor, mapped where `_take_in` left them beside the file."""
    if not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    fields = {entry.key: entry.value for entry in tensor.external_data}
    dtype, offset = helper.tensor_dtype_to_np_dtype(tensor.data_type), int(fields.get("offset") or 0)
    return np.asarray(np.memmap(fields["location"], dtype, "r", offset, tuple(tensor.dims)))


def _form(
    proto: onnx.ModelProto,
    source: Path,
    encoding: str,
    *,
    lifted: bool = True,
    signed: bool = False,
    narrow: bool = True,
) -> bytes | None:
    """The file in one way; empty where nothing in it would be sparse, None where `signed` finds no -0 to keep."""
    graph, opset = proto.graph, _opset(proto)
    if encoding == "auto" and opset < _BITWISE_OPSET:
        encoding = "portable"
    if encoding == "bitmask" and opset < _BITWISE_OPSET:
        raise UsageError(
            f"{source} uses ONNX opset {opset}; the encoding bitmask needs BitwiseAnd of opset {_BITWISE_OPSET}",
            way_out="--encoding portable",
        )
    drop_notes(proto)
    narrow &= opset >= NARROW_OPSET
    anew = _Anew(encoding, opset, lifted, signed, narrow, _kept(proto), names_in(graph.node) | names_around(graph))
    is_sparse = anew.store(graph)
    if signed and not anew.has_signed:
        return None
    if not is_sparse:
        return b""
    _take_in(proto, source)  # what was not stored anew
    for entry in proto.metadata_props:
        if entry.key == manifest.KEY:
            entry.value = manifest.stored_anew(entry.value, encoding) or entry.value
    if proto.ByteSize() > _LARGEST_MESSAGE:
        raise ConversionError(f"{source} takes more than 2 GB without its zeros", way_out="prune it further first")
    return proto.SerializeToString(deterministic=True)


def _kept(proto: onnx.ModelProto) -> set[str]:
    """Constants that keep their place: a caller or a training may replace them, or an annotation names them."""
    graph = proto.graph
    annotated = {pair.value for each in graph.quantization_annotation for pair in each.quant_parameter_tensor_names}
    trained: set[str] = set()
    for info in proto.training_info:
        trained |= names_in((*info.algorithm.node, *info.initialization.node))
        trained |= {pair.key for pair in (*info.initialization_binding, *info.update_binding)}
    return {value.name for value in graph.input} | annotated | trained


@dataclass
class _Anew:
    """Stores the constants of a graph anew, and those of the graphs inside of it."""

    encoding: str
    opset: int
    lifted: bool  # whether a graph restores the weights of those inside of it, as far as these have none themselves
    signed: bool  # whether a -0 is stored as what it is
    narrow: bool  # whether int4 and float8 are stored sparse too
    kept: set[str]  # constants that stay where they are
    taken: set[str]  # names that are not free
    has_signed: bool = False  # whether any was met

    def store(self, graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> bool:
        """Whether zeros take fewer bytes now. Where none in the file do, what is stored anew is not kept.

        Args:
            outer: names of the graphs around. A constant may hide one of them, what a node makes may not.
        """
        if self.lifted:
            lift(graph, nested=False)  # before those inside of it take from theirs
        bodies = [body for node in graph.node for body in subgraphs(node)]
        bodies = [body for body in bodies if not self.lifted or any(True for n in body.node for _ in subgraphs(n))]
        around = outer | names_around(graph) | names_at(graph.node)
        inside = [self.store(body, around) for body in bodies]
        return self._own(graph, outer) or any(inside)

    def _own(self, graph: onnx.GraphProto, outer: frozenset[str]) -> bool:
        sparse = {pair.values.name for pair in graph.sparse_initializer}
        tensors = [*take_constants(graph), *map(densified, graph.sparse_initializer), *graph.initializer]
        kept = self.kept | {value.name for value in graph.input}
        for tensor in tensors:
            if tensor.name in outer and tensor.name not in {value.name for value in graph.output}:
                own = tensor.name
                while tensor.name in self.taken:
                    tensor.name += "'"
                self.taken.add(tensor.name)
                rename(graph, {own: tensor.name})
        left = {t.name for t in tensors if t.name in kept or t.data_type == onnx.TensorProto.STRING}
        constants = {t.name: _array(t) for t in tensors if t.name not in left}
        del graph.initializer[:], graph.sparse_initializer[:]
        graph.initializer.extend(tensor for tensor in tensors if tensor.name in left)
        fold_masks(graph, constants, self.encoding)
        products = _products(graph, constants)
        parts = _parts(graph, constants)
        weights = {}
        for name, values in constants.items():
            known = self.narrow or values.dtype not in WIDER
            if known and name not in products and name not in parts and is_sound(values):
                weights[name] = self._weight(name, values)
        decoder = Decoder(graph, self.taken)
        store = Store(decoder, self.encoding, list(weights.values()), grouped=self.opset >= _SPLIT_OPSET)
        for name, values in constants.items():
            if name in weights:
                store.add(weights[name])
            elif name not in products:
                decoder.store(values, name)
        for name, factors in products.items():
            decoder.node("Mul", *factors, output=name)
        tidy(graph, decoder, constants.keys())
        decoder.finish()
        as_before = {name for name in sparse if store.kinds.get(name) == SPARSE_INITIALIZER}
        no_zeros = {name for name, weight in weights.items() if weight.is_cast and weight.fill}
        return any(kind != "dense" for name, kind in store.kinds.items() if name not in as_before | no_zeros)

    def _weight(self, name: str, values: np.ndarray) -> Weight:
        """A constant in the form that takes the fewest bytes."""
        fill = usual(values)
        plain = Weight(name, values, values != fill, fill=fill)
        if self.signed and values.dtype.kind == "f" and np.any(signs := ~plain.mask & np.signbit(values)):
            self.has_signed = True
            return Weight(name, values, plain.mask | signs)
        return min([plain, *exact_forms(plain)], key=lambda weight: cost(weight, self.encoding))


def _opset(proto: onnx.ModelProto) -> int:
    return next(entry.version for entry in proto.opset_import if entry.domain in DOMAINS)


def _raised(proto: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """The model in an opset that has the operators to decode with."""
    if not any(entry.domain in DOMAINS for entry in proto.opset_import):  # every operator is one of other domains
        proto.opset_import.add(version=_BITWISE_OPSET if proto.ir_version >= _BITWISE_IR else OLDEST_OPSET)
    opset = _opset(proto)
    if opset >= OLDEST_OPSET:
        return proto
    repeating = [_repeats(node) for node in all_nodes(proto.graph) if node.op_type in ("Resize", "Upsample")]
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
    resized = [node for node in all_nodes(raised.graph) if node.op_type == "Resize"] if opset < _PLACES_OPSET else ()
    for node, repeats in zip(resized, repeating, strict=True):  # in the same order, under other names
        if not repeats and not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    return raised


def _repeats(node: onnx.NodeProto) -> bool:
    """Whether an Upsample with its factors as attribute repeats entries, which every way of reading places does.

    onnxruntime lays the channels around one whose places it knows in blocks, which shows in the last bit; not around
    this.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    factors = attributes.get("scales", ()) if attributes.get("mode", b"nearest") == b"nearest" else ()
    return node.op_type == "Upsample" and bool(factors) and all(factor == int(factor) for factor in factors)


def _parts(graph: onnx.GraphProto, constants: Iterable[str]) -> set[str]:
    """Constants of which nodes make sparse weights already: what is scattered to, or read from, running sums, and what
    is then added to that or multiplied by."""
    behind = {name: {name} for name in constants}  # value → the constants that it is computed from
    summed: set[str] = set()
    found: set[str] = set()
    for node in graph.node:
        names = [name for name in node.input if name]
        if not all(name in behind for name in names):
            continue
        sources = {source for name in names for source in behind[name]}
        behind |= dict.fromkeys(node.output, sources)
        if node.op_type == "CumSum" or not summed.isdisjoint(names):
            summed.update(node.output)
            if node.op_type in _DECODING:
                found |= sources
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


def _constants_alone(proto: onnx.ModelProto) -> None:
    """Before IR 4 every constant was listed among the inputs as well; since then that means that it can be replaced."""
    if proto.ir_version < 4:
        proto.ir_version = 4
        stored = {tensor.name for tensor in proto.graph.initializer}
        kept = [value for value in proto.graph.input if value.name not in stored]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
