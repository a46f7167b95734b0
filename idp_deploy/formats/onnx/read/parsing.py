"""Bytes of an .onnx file → a checked ModelProto; every claim of the file about itself is doubted first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.formats.external_data import data_beside
from idp_deploy.formats.onnx.bodies import copy_results, lift, put_in_order, stored_bytes, subgraphs
from idp_deploy.formats.onnx.functions import hand_over, inlined


def parse(path: Path) -> onnx.ModelProto:
    """The model without external data loaded, local functions inlined, and every name defined before its use.

    What bodies of operators (If, Loop, Scan) hold of weights stands in the graph around them, which means the same.

    Raises:
        FileError: not a protobuf, no graph in it, or a value that nothing produces.
    """
    try:
        data = documents.read_bytes(path)
        model = onnx.ModelProto.FromString(data)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise FileError(
            f"{path} is not an ONNX file: {error}", way_out="the file is truncated or of another kind"
        ) from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output) or model.ir_version < 1:
        raise FileError(f"{path} holds no ONNX graph", way_out="the file is truncated or of another kind")
    if model.functions:
        hand_over(model)
        try:
            model = inlined(model)
        except Exception as error:  # onnx raises many kinds
            raise FileError(f"{path}: its local functions cannot be inlined: {error}") from error
    about = [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    _check_texts([*about, *(entry.domain for entry in model.opset_import), *_texts(model.graph)], path)
    put_in_order(model.graph)
    _check_names(model.graph, frozenset(), path)
    copy_results(model.graph)
    lift(model.graph)
    return model


def _texts(graph: onnx.GraphProto) -> Iterator[object]:
    """Every name in a graph and the graphs inside it."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (extent.dim_param for extent in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse_name(tensor) for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for body in subgraphs(node):
            yield from _texts(body)


def _check_texts(texts: Iterable[object], path: Path) -> None:
    """protobuf gives back what is no UTF-8 as bytes."""
    for text in texts:
        if not isinstance(text, str):
            raise FileError(f"{path}: a name in it is no text: {text!r:.80}", way_out="the file is damaged")


def sparse_name(tensor: onnx.SparseTensorProto) -> str:
    """A sparse initializer is named by its values."""
    return tensor.values.name


def _check_names(graph: onnx.GraphProto, outer: frozenset[str], path: Path) -> None:
    _check_constants(graph, path)
    known = set(outer) | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse_name(tensor) for tensor in graph.sparse_initializer}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise FileError(
                    f"{path}: {node.op_type} node '{node.name}' reads '{name}', which nothing before it produces",
                    way_out="the file is truncated, or its nodes read each other in a circle",
                )
        for body in subgraphs(node):
            _check_names(body, frozenset(known), path)
        known.update(node.output)
    for value in graph.output:
        if value.name not in known:
            raise FileError(f"{path}: nothing produces the output '{value.name}'", way_out="the file is truncated")


def _check_constants(graph: onnx.GraphProto, path: Path) -> None:
    """No two constants of one name, unless they are one tensor written twice."""
    nodes = [node for node in graph.node if node.op_type == "Constant" and node.output]
    times = Counter([tensor.name for tensor in graph.initializer] + [node.output[0] for node in nodes])
    for name in [name for name, count in times.items() if count > 1]:
        own = [tensor for tensor in graph.initializer if tensor.name == name]
        same = len({tensor.SerializeToString(deterministic=True) for tensor in own}) == 1 and len(own) == times[name]
        if not same:
            raise FileError(
                f"{path}: {times[name]} constants are called '{name}', of which runtimes read one or another",
                way_out="give each a name of its own",
            )


class TensorLoader:
    """TensorProto → numpy, external data included, with sizes checked against what is really there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.external: set[Path] = set()  # data files met so far

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The values; FileError where dims, type and data disagree."""
        if any(extent < 0 for extent in tensor.dims):  # numpy would take it for an extent to be inferred
            raise FileError(f"{self.path}: tensor '{tensor.name}' claims the shape {list(tensor.dims)}")
        try:
            if tensor.data_location == TensorProto.EXTERNAL:
                return self._external(tensor)
            return numpy_helper.to_array(tensor)
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"{self.path}: tensor '{tensor.name}' {list(tensor.dims)} is broken: {error}") from error

    def sparse(self, tensor: onnx.SparseTensorProto, limit: int) -> np.ndarray:
        """The dense values of a sparse constant of at most `limit` entries; its indices are flat or coordinates."""
        values, indices = self.array(tensor.values), self.array(tensor.indices)
        name, shape = sparse_name(tensor), tuple(tensor.dims)
        count = checked_count(shape, limit, self.path, name)
        if indices.ndim == 2 and indices.shape[1] == len(shape) and len(shape) > 0:
            inside = bool(((indices >= 0) & (indices < np.array(shape))).all())
            flat = np.ravel_multi_index(tuple(indices.T), shape) if inside else np.array([-1])
        else:
            flat = indices.reshape(-1)
        if flat.size != values.size or (flat.size and (flat.min() < 0 or flat.max() >= count)):
            raise FileError(f"{self.path}: sparse tensor '{name}' has indices outside of its shape {shape}")
        out = np.zeros(count, values.dtype)
        out[flat] = values.reshape(-1)
        return out.reshape(shape)

    def size_bytes(self, tensor: onnx.TensorProto) -> int:
        """Bytes of the values as they lie in the file."""
        if tensor.data_location == TensorProto.EXTERNAL:
            fields = {entry.key: entry.value for entry in tensor.external_data}
            return self._number(fields.get("length", ""), tensor.name, default=stored_bytes(tensor))
        if tensor.HasField("raw_data"):
            return len(tensor.raw_data)
        packed = TensorProto(int32_data=tensor.int32_data, int64_data=tensor.int64_data, uint64_data=tensor.uint64_data)
        return packed.ByteSize() or self.array(tensor).nbytes  # small integers take fewer bytes there, of any type

    def _external(self, tensor: onnx.TensorProto) -> np.ndarray:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        data = data_beside(self.path, location)
        if data is None:
            raise FileError(
                f"{self.path}: the data of tensor '{tensor.name}' should be in {location!r}, which is not beside it",
                way_out="keep the data file in the folder of the .onnx file, under its own name",
            )
        self.external.add(data)
        offset = self._number(fields.get("offset", ""), tensor.name, default=0)
        wanted, size = stored_bytes(tensor), data.stat().st_size
        length = self._number(fields.get("length", ""), tensor.name, default=wanted)
        named = f"{self.path}: tensor '{tensor.name}' {list(tensor.dims)}"
        if offset + length > size:
            what, way_out = documents.instead(documents.read_head(data, 512)) or ("", "fetch or write it again, whole")
            raise FileError(
                f"{named} reaches beyond the end of {data.name}"
                + (what and f", {what}")
                + f": bytes {offset:,} to {offset + length:,} of {size:,}",
                way_out=way_out,
            )
        if length != wanted:
            raise FileError(
                f"{named} is broken: it takes {wanted:,} bytes, and {length:,} are said to lie in {data.name}",
                way_out="write the file and its data again, together",
            )
        with data.open("rb") as handle:
            handle.seek(offset)
            inline = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            inline.raw_data = handle.read(length)
        return numpy_helper.to_array(inline)

    def _number(self, text: str, name: str, default: int) -> int:
        if not text:
            return default
        if not text.isdecimal():
            raise FileError(f"{self.path}: tensor '{name}' has the external data field {text!r}, not a number")
        return int(text)


def checked_count(shape: tuple[int, ...], limit: int, path: Path, name: str) -> int:
    """Entries of `shape`; FileError where an extent is negative or the product passes `limit`."""
    count = 1
    for extent in shape:
        count *= int(extent)
        if extent < 0 or count > limit:
            raise FileError(f"{path}: tensor '{name}' claims the shape {shape}, more than its file can hold")
    return count
