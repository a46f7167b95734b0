"""read an .onnx file: weights decoded from however they are stored, operators without the decode nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from idp_deploy import files
from idp_deploy.errors import FileError
from idp_deploy.flow import INSIDE, Contents, GraphOp, StoredTensor
from idp_deploy.formats import manifest
from idp_deploy.formats.onnx.bodies import lift_computed, subgraphs
from idp_deploy.formats.onnx.read.blocks import PARTS, in_blocks, parts_of
from idp_deploy.formats.onnx.read.constants import Constants
from idp_deploy.formats.onnx.read.evaluating import Limits, along, is_computed, is_standard
from idp_deploy.formats.onnx.read.parsing import TensorLoader, parse
from idp_deploy.formats.onnx.read.shapes import PRODUCTS, infer
from idp_deploy.formats.onnx.read.tensors import Charges, describe, is_argument, origin
from idp_deploy.legible import gathered

_LARGE = 1024  # entries that may be those of a weight
_WEIGHT_BIAS = {1: "weight", 2: "bias"}
# what a constant in an input position means; positions without a word keep their number
ROLES: dict[str, dict[int, str]] = {
    "Attention": _WEIGHT_BIAS,  # onnxruntime's own: projections, then attention
    "BatchNormalization": {1: "weight", 2: "bias", 3: "mean", 4: "variance"},
    "Conv": _WEIGHT_BIAS,
    "ConvInteger": {1: "weight"},
    "ConvTranspose": _WEIGHT_BIAS,
    "ConvTransposeWithDynamicPads": {1: "weight", 3: "bias"},
    "DynamicQuantizeLSTM": {1: "weight", 2: "recurrence", 3: "bias"},
    "DynamicQuantizeMatMul": {1: "weight", 4: "bias"},
    "EmbedLayerNormalization": {2: "words", 3: "places", 4: "segments", 5: "weight", 6: "bias"},
    "FusedConv": _WEIGHT_BIAS,
    "FusedGemm": _WEIGHT_BIAS,
    "FusedMatMul": {0: "weight", 1: "weight"},
    "GRU": {1: "weight", 2: "recurrence", 3: "bias"},
    "Gather": {0: "weight"},
    "Gemm": _WEIGHT_BIAS,
    "GemmFastGelu": _WEIGHT_BIAS,
    "GroupNormalization": _WEIGHT_BIAS,
    "InstanceNormalization": _WEIGHT_BIAS,
    "LSTM": {1: "weight", 2: "recurrence", 3: "bias"},
    "LayerNormalization": _WEIGHT_BIAS,
    "MatMul": {0: "weight", 1: "weight"},
    "MatMulInteger": {0: "weight", 1: "weight"},
    "MatMulIntegerToFloat": {1: "weight", 6: "bias"},
    "MatMulNBits": {1: "weight", 5: "bias"},
    "MoE": {2: "weight", 3: "bias", 4: "weight of fc2", 5: "bias of fc2", 6: "weight of fc3", 7: "bias of fc3"},
    "NhwcConv": _WEIGHT_BIAS,
    "PackedAttention": _WEIGHT_BIAS,
    "QAttention": _WEIGHT_BIAS,
    "QGemm": {3: "weight", 6: "bias"},
    "QLinearConv": {3: "weight", 8: "bias"},
    "QLinearMatMul": {3: "weight"},
    "QMoE": {4: "bias", 7: "bias of fc2", 10: "bias of fc3"},
    "RNN": {1: "weight", 2: "recurrence", 3: "bias"},
}
# operator → position of an integer matrix → position of its zero point, and the axis that this goes along
_ZERO_POINTS: dict[str, dict[int, tuple[int, int]]] = {
    "ConvInteger": {1: (3, 0)},
    "DynamicQuantizeLSTM": {1: (9, 0), 2: (11, 0)},
    "DynamicQuantizeMatMul": {1: (3, -1)},
    "MatMulInteger": {0: (2, 0), 1: (3, -1)},
    "MatMulIntegerToFloat": {1: (5, -1)},
    "QAttention": {1: (7, -1)},
    "QGemm": {3: (5, -1)},
    "QLinearConv": {3: (5, 0)},
    "QLinearMatMul": {0: (2, 0), 3: (5, -1)},
}


def read_onnx(path: Path) -> Contents:
    """Parse an ONNX file of any origin, external data included.

    Small integer constants and scalars become attributes of the operators that read them, under the input's position
    ("1"); all other constants are tensors. A tied weight is one tensor, read by several operators.

    Raises:
        FileError: missing, truncated, contradictory, or larger when decoded than its bytes can justify.
    """
    path = Path(path)
    model = parse(path)
    lift_computed(model.graph, is_computed)
    loader = TensorLoader(path)
    warnings: list[str] = []
    constants = Constants(model.graph, loader, Limits(path))
    nodes = [node for node in model.graph.node if not any(name in constants for name in node.output)]
    read = _Reader(constants)
    ops = tuple(read.op(i, node) for i, node in enumerate(nodes))
    for value in model.graph.output:
        if value.name in constants:
            read.constant(value.name)
    bodies = sorted({node.op_type for node in nodes if any(subgraphs(node))})
    if bodies:
        warnings.append(f"the operators inside of {', '.join(bodies)} are not listed")
    others = sorted({f"{node.domain}.{node.op_type}" for node in nodes if _is_foreign(node)})
    if others:
        warnings.append(f"operators outside of ONNX: {', '.join(others)}; the shapes behind them may be unknown")
    unknown = sorted(
        {op.kind for op, node in zip(ops, nodes, strict=True) if _is_foreign(node) and read.has_other_matrices(op)}
    )
    if unknown:
        warnings.append(f"what {', '.join(unknown)} read counts for no share of zeros: it is not known here")
    given = [value.name for value in model.graph.input if value.name not in constants and _is_matrix(value)]
    if len(given) > 1 and not any(len(tensor.shape) > 1 for tensor in read.tensors.values()):
        warnings.append(f"it holds no weights; matrices that come in as inputs: {gathered(given)}")
    values = infer(model, nodes, read.shapes, read.arguments, constants.limits)
    metadata = _metadata(model, warnings)
    size = files.size_bytes(path) + sum(data.stat().st_size for data in loader.external)
    fixed = {tensor.name for tensor in model.graph.initializer}
    return Contents(
        path=path,
        format="onnx",
        size_bytes=size,
        tensors=tuple(read.tensors.values()),
        ops=ops,
        values=values,
        inputs=tuple(value.name for value in model.graph.input if value.name not in fixed),
        outputs=tuple(value.name for value in model.graph.output),
        metadata=metadata,
        warnings=tuple(warnings),
    )


class _Reader:
    """Collects the tensors and arguments that operators read."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.tensors: dict[str, StoredTensor] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}  # of each constant an operator reads
        self.arguments: dict[str, np.ndarray] = {}
        self._charges = Charges(constants)

    def constant(self, name: str, operator: str = "", kept: int | None = None) -> str | None:
        """The tensor behind a constant that an operator of this kind reads, or None where it is an argument.

        Args:
            kept: how many of its integers mean no zero, where the operator has a zero point for them.
        """
        if name in self.arguments and is_argument(self.arguments[name], operator):
            return None
        values = None
        if name not in self.shapes:
            values = self.constants.value(name)  # before `origin`, which asks for types on the way to it
            if is_argument(values, operator):
                self.arguments[name] = values
                return None
            self.shapes[name] = values.shape, values.dtype
        found = origin(self.constants, name)
        if found.name not in self.tensors:
            stored = values if values is not None and found.stored == name else self.constants.value(found.stored)
            self.tensors[found.name] = describe(self.constants, found, stored, self._charges, kept)
        return found.name

    def op(self, index: int, node: onnx.NodeProto) -> GraphOp:
        """One operator with its constants told apart from its activations."""
        attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
        weights: dict[str, str] = {}
        inputs: list[str] = []
        names = [*node.input, *sorted({n for body in subgraphs(node) for n in _free(body)} - set(node.input))]
        for position, name in enumerate(names):
            if name not in self.constants:
                inputs.extend([name] if name else [])
                continue
            role = _packed_role(node, position)
            if role:
                weights |= self._blocks(node, role)
                continue
            tensor = self.constant(name, node.op_type, self._kept(node, position))
            if tensor is None:
                attributes[str(position)] = _plain(self.arguments[name])
            else:
                where = "" if position < len(node.input) else INSIDE
                weights[where + ROLES.get(node.op_type, {}).get(position, str(position))] = tensor
        outputs = tuple(name for name in node.output if name)
        return GraphOp(
            node.name or f"{node.op_type}_{index}", node.op_type, tuple(inputs), outputs, attributes, weights
        )

    def has_other_matrices(self, op: GraphOp) -> bool:
        """Whether an operator reads a large constant, a matrix or packed bits, whose role is not known."""
        others = [self.tensors[name] for role, name in op.weights.items() if role.isdecimal()]
        return any(t.size >= _LARGE and (len(t.shape) > 1 or t.value_bits == 8) for t in others)

    def _blocks(self, node: onnx.NodeProto, role: str) -> dict[str, str]:
        """A matrix that an operator decodes in blocks, with its scales and zero points one tensor."""
        name, *_ = parts = parts_of(node, role)
        if name not in self.tensors:
            size = sum(self._charges.of(part) for part in parts if part in self.constants)
            found = in_blocks(self.constants, node, role, size)
            if found is None:
                return {}
            self.tensors[name] = found
            self.shapes[name] = found.shape[::-1], np.dtype(np.float32)
        return {role: name}

    def _kept(self, node: onnx.NodeProto, position: int) -> int | None:
        """How many entries of an integer matrix differ from the zero point that the operator reads beside it."""
        zero, axis = _ZERO_POINTS.get(node.op_type, {}).get(position, (len(node.input), 0))
        name = node.input[zero] if zero < len(node.input) else ""
        if name not in self.constants:
            return None
        values = self.constants.value(node.input[position])
        axis = 0 if any(a.name == "transB" and a.i for a in node.attribute) else axis
        points = self.constants.value(name)
        if points.ndim == 2 and values.ndim == 3:  # of each direction's columns
            points = points[:, None]
        try:
            return int(np.count_nonzero(values != along(points, values, {"axis": axis})))
        except ValueError as error:
            where = f"{self.constants.loader.path}: zero point '{name}' {points.shape} of {node.op_type} '{node.name}'"
            raise FileError(f"{where} does not fit its weight {values.shape}") from error


def _packed_role(node: onnx.NodeProto, position: int) -> str:
    """The matrix of a few bits in blocks that an input is a part of; empty where it is none."""
    parts = PARTS.get(node.op_type, {}) if node.domain else {}
    return next((role for role, places in parts.items() if position in places), "")


def _is_matrix(value: onnx.ValueInfoProto) -> bool:
    """Whether an input has the extents of a weight, all of them said."""
    extents = [extent.dim_value for extent in value.type.tensor_type.shape.dim]
    return len(extents) == 2 and extents[0] * extents[1] >= _LARGE


def _is_foreign(node: onnx.NodeProto) -> bool:
    return not is_standard(node) and node.op_type not in PRODUCTS


def _free(body: onnx.GraphProto) -> set[str]:
    """Names that a body reads from outside."""
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {name for node in body.node for name in node.output}
    read = {name for node in body.node for name in node.input if name} | {value.name for value in body.output}
    return (read | {n for node in body.node for inner in subgraphs(node) for n in _free(inner)}) - own


def _plain(value: Any) -> Any:
    """An attribute as plain values; graphs and tensors are left out by kind."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, onnx.TensorProto):
        return f"tensor {list(value.dims)}"
    if isinstance(value, onnx.GraphProto):
        return f"graph of {len(value.node)} operators"
    if hasattr(value, "__iter__") and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _metadata(model: onnx.ModelProto, warnings: list[str]) -> dict[str, Any]:
    """The file's own key-value pairs, ours parsed; beside them who wrote it and for which version of ONNX."""
    metadata: dict[str, Any] = {entry.key: entry.value for entry in model.metadata_props}
    if manifest.KEY in metadata:
        found, warning = manifest.parse(metadata.pop(manifest.KEY))
        metadata |= {manifest.KEY: found} if found is not None else {}
        warnings.extend([warning] if warning else [])
    metadata["ir_version"] = model.ir_version
    metadata["opsets"] = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    metadata["producer"] = f"{model.producer_name} {model.producer_version}".strip()
    return metadata
