"""What a runtime would compute once while loading: constants, and the nodes that only depend on constants.

A weight may be an initializer, or come out of decode nodes. Both are evaluated here with plain numpy, following the
operator specification (`evaluating`) — not the code that wrote the file.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx
from onnx import helper

from idp_deploy.errors import FileError
from idp_deploy.formats.onnx.read.evaluating import EVALUATORS, Limits, is_computed
from idp_deploy.formats.onnx.read.parsing import TensorLoader, sparse_name


class Constants:
    """The constants of one graph and how each is computed.

    `nodes` are those that depend on constants alone (by output name); all others are the graph's own operators.
    """

    def __init__(self, graph: onnx.GraphProto, loader: TensorLoader, limits: Limits) -> None:
        self.loader, self.limits = loader, limits
        self.stored: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = {}
        self.nodes: dict[str, onnx.NodeProto] = {}
        first: dict[bytes, str] = {}  # where data lies beside the file, its type and shape → the tensor that has it
        for tensor in graph.initializer:
            same = first.setdefault(_place(tensor) or tensor.name.encode(), tensor.name)
            if same == tensor.name:
                self.stored[tensor.name] = tensor
            else:
                self.nodes[tensor.name] = helper.make_node("Identity", [same], [tensor.name])
        self.stored.update((sparse_name(tensor), tensor) for tensor in graph.sparse_initializer)
        self._dtypes: dict[str, np.dtype] = {}  # of all that was evaluated
        self._pieces: dict[str, np.ndarray] = {}  # what a Split gives, for every piece comes out of the same work
        for node in graph.node:
            tensor = _constant_tensor(node)
            if tensor is not None:
                self.stored[node.output[0]] = tensor
            elif is_computed(node) and all(name in self for name in node.input if name):
                self.nodes |= dict.fromkeys(node.output, node)

    def __contains__(self, name: str) -> bool:
        return name in self.stored or name in self.nodes

    def cone(self, name: str, known: Container[str] = ()) -> list[str]:
        """Everything `name` is computed from and itself, inputs before outputs; what is behind `known` is left out."""
        order: list[str] = []
        seen: set[str] = set()
        stack = [(name, False)]
        while stack:
            current, entered = stack.pop()
            if entered:
                order.append(current)
            elif current not in seen:
                seen.add(current)
                stack.append((current, True))
                if current in self.nodes and current not in known:
                    stack.extend((source, False) for source in reversed(self.nodes[current].input) if source)
        return order

    def value(self, name: str) -> np.ndarray:
        """Evaluate one constant; FileError where its nodes contradict each other."""
        values: dict[str, Any] = {"": None}
        for current in self.cone(name, self._pieces):
            if current in self._pieces:
                values[current] = self._pieces[current]
                continue
            if current in self.stored:
                tensor = self.stored[current]
                sparse = isinstance(tensor, onnx.SparseTensorProto)
                values[current] = (
                    self.loader.sparse(tensor, self.limits.entries) if sparse else self.loader.array(tensor)
                )
                continue
            node = self.nodes.get(current)
            if node is None:
                source = f"'{current}', which nothing makes" if current else "an input that is left out"
                raise FileError(f"{self.loader.path}: a constant is computed from {source}")
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            try:
                with np.errstate(all="ignore"):  # infinities are what a runtime computes too
                    result = EVALUATORS[node.op_type]([values[n] for n in node.input], attributes, self.limits)
                if node.op_type == "Split":
                    self._pieces |= zip(node.output, result, strict=True)
                    result = self._pieces[current]
            except FileError:
                raise
            except Exception as error:
                raise FileError(
                    f"{self.loader.path}: {node.op_type} of '{current}' cannot be computed: {error}"
                ) from error
            values[current] = np.asarray(result)
            self.limits.check(values[current].shape, current)
        self._dtypes |= ((current, value.dtype) for current, value in values.items() if value is not None)
        return values[name]

    def dtype(self, name: str) -> np.dtype:
        """Of one constant; evaluated where nothing that is computed from it was."""
        return self._dtypes[name] if name in self._dtypes else self.value(name).dtype

    def size_bytes(self, name: str) -> int:
        """Bytes as stored of one initializer, sparse initializer or Constant node."""
        tensor = self.stored[name]
        if isinstance(tensor, onnx.SparseTensorProto):
            return self.loader.size_bytes(tensor.values) + self.loader.size_bytes(tensor.indices)
        return self.loader.size_bytes(tensor)


def _place(tensor: onnx.TensorProto) -> bytes:
    """What two initializers have in common that are one tensor of a data file; empty for data of the file itself."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return b""
    alike = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, external_data=tensor.external_data)
    return b"\0" + alike.SerializeToString(deterministic=True)


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | onnx.SparseTensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute or not node.output:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return value
    if attribute.name == "sparse_value":
        named = onnx.SparseTensorProto()
        named.CopyFrom(value)
        named.values.name = node.output[0]
        return named
    dtype = np.int64 if attribute.name.startswith("value_int") else np.float32
    if attribute.name.startswith("value_string"):
        return None
    return onnx.numpy_helper.from_array(np.asarray(value, dtype), node.output[0])
