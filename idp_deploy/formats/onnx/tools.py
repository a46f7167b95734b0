"""What another runtime will do with an .onnx file: its rules matched with the nodes of the file, whoever wrote it.

No rule broken means that nothing known stands against the file, which is not a proof that it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto

from idp_deploy.formats.onnx.read.parsing import parse, sparse_name
from idp_deploy.formats.onnx.runtimes import VERDICTS, Rule, RuntimeFinding, RuntimeLint, runtimes

Given: TypeAlias = dict[str, Any]  # a node's attributes
_WEIGHTS = {"GRU": slice(1, 4), "LSTM": slice(1, 4), "RNN": slice(1, 4)}  # which inputs are weights: else all but one
_ACTIVATIONS = {"GRU": [b"Sigmoid", b"Tanh"], "LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "RNN": [b"Tanh"]}
_COERCED_BEFORE = 13  # until then a softmax took all axes from its own on for one
_AVERAGES = frozenset({"ReduceMean", "GlobalAveragePool"})
_RANDOM = frozenset({"RandomNormal", "RandomUniform"})  # without inputs, and no constants


def lint(path: Path, name: str) -> RuntimeLint:
    """Match every rule of one runtime with the file's nodes.

    Args:
        name: one of `runtimes()`.

    Raises:
        FileError: not an ONNX file.
    """
    runtime, graph = runtimes()[name], _Graph(parse(path))
    findings = []
    for rule in runtime.rules:
        met = list(graph.meeting(rule))
        if met:
            findings.append(RuntimeFinding(met[0], rule.verdict, rule.message, rule.fix, len(met)))
    findings.sort(key=lambda finding: VERDICTS.index(finding.verdict))
    verdict = findings[0].verdict if findings else VERDICTS[-1]
    return RuntimeLint(name, runtime.title, runtime.version, runtime.source, verdict, tuple(findings))


class _Graph:
    """The main graph of a file: which of its names are constants, stored or prepared by nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
        self.nodes, self.sparse = graph.node, [sparse_name(tensor) for tensor in graph.sparse_initializer]
        self.dense = {tensor.name: tensor for tensor in graph.initializer}
        self.dense |= {
            node.output[0]: attribute.t
            for node in self.nodes
            for attribute in node.attribute
            if node.op_type == "Constant" and attribute.name == "value"
        }
        self.types = {name: tensor.data_type for name, tensor in self.dense.items()}
        self.stored = set(self.types) | set(self.sparse)
        self.inputs = {value.name for value in graph.input} - self.stored
        self.prepared: set[str] = set()
        self.extents = {name: list(tensor.dims) for name, tensor in self.dense.items()}  # 0 where one is free
        self.producers = {name: node for node in graph.node for name in node.output}
        self.factors = [tuple(node.input) for node in graph.node if node.op_type == "Mul"]
        for value in (*graph.input, *graph.output, *graph.value_info, *_inferred(model)):
            self.types.setdefault(value.name, value.type.tensor_type.elem_type)
            if value.type.tensor_type.HasField("shape"):
                self.extents[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for node in self.nodes:
            if node.op_type == "Constant":
                self.stored.update(node.output)
            elif node.op_type not in _RANDOM and all(self.is_constant(name) for name in node.input):
                self.prepared.update(node.output)

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same at every call; the empty name is an input left out."""
        return not name or name in self.stored or name in self.prepared

    def meeting(self, rule: Rule) -> Iterator[str]:
        """The nodes, or sparse initializers, that a rule speaks of."""
        if "sparse_initializer" in rule.operators:
            yield from self.sparse
        for i, node in enumerate(self.nodes):
            if ("*" in rule.operators or node.op_type in rule.operators) and self._fits(node, rule):
                yield node.name or f"{node.op_type}_{i}"

    def _fits(self, node: onnx.NodeProto, rule: Rule) -> bool:
        if rule.types and _word(self.types.get(node.input[0], 0) if node.input else 0) not in rule.types:
            return False
        if rule.rank is not None and len(self.extents.get(node.input[0] if node.input else "", [])) != rule.rank:
            return False
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if any(not _is(given.get(name, 0), value) for name, value in rule.attributes):
            return False
        return not rule.part or _PARTS[rule.part](self, node, given)

    def is_gate(self, node: onnx.NodeProto, _: Given) -> bool:
        gated = [set(factors) - {node.output[0]} for factors in self.factors if node.output[0] in factors]
        return any(others != {node.input[0]} for others in gated)

    def has_entries(self, node: onnx.NodeProto, _: Given) -> bool:
        extents = [self.extents.get(name) for name in node.input]
        return all(each is None or 0 in each or math.prod(each) > 4 for each in extents)

    def is_over_one_axis(self, node: onnx.NodeProto, _: Given) -> bool:
        return len(node.input) > 1 and self.is_constant(node.input[1]) and self.extents.get(node.input[1]) == [1]

    def is_uneven(self, node: onnx.NodeProto, given: Given) -> bool:
        """Parts whose sizes nobody wrote down differ, as far as what is cut is known."""
        extents, parts, axis = self.extents.get(node.input[0], []), given.get("num_outputs", 0), given.get("axis", 0)
        known = isinstance(parts, int) and isinstance(axis, int) and -len(extents) <= axis < len(extents)
        return known and parts > 0 and extents[axis] % parts > 0

    def is_stretched(self, node: onnx.NodeProto, _: Given) -> bool:
        """Of three and more tensors some are known to be shorter; of the choices of a Where, but for single numbers."""
        is_choice = node.op_type == "Where"
        known = [found for found in map(self.extents.get, node.input[is_choice:]) if found is not None]
        extents = [each for each in known if not is_choice or math.prod(each) > 1]
        return len(node.input) > 2 and any(each != extents[0] for each in extents)

    def is_cut_unevenly(self, node: onnx.NodeProto, given: Given) -> bool:
        """A transposed convolution that names its size, of which an odd number goes, or one that nobody can tell."""
        sizes, own = given.get("output_shape", []), self.own_extents(node, given)
        if not sizes or given.get("auto_pad") == b"SAME_UPPER":
            return False
        return own is None or any((whole - size) % 2 for whole, size in zip(own, sizes, strict=True))

    def own_extents(self, node: onnx.NodeProto, given: Given) -> list[int] | None:
        """What a transposed convolution makes where nothing is cut off; None where nobody can tell."""
        image, spans = self.extents.get(node.input[0], [])[2:], self.extents.get(node.input[1], [])[2:]
        wanted, ones = given.get("output_shape", spans), [1] * len(spans)
        if not len(image) == len(spans) == len(wanted) or 0 in image:
            return None
        steps, wide = given.get("strides", ones), given.get("dilations", ones)
        more = given.get("output_padding", [0] * len(spans))
        return [
            step * (extent - 1) + behind + (span - 1) * apart + 1
            for step, extent, behind, span, apart in zip(steps, image, more, spans, wide, strict=True)
        ]

    def overhang(self, pool: onnx.NodeProto) -> float:
        """Of a pool over what is known of its input."""
        return _overhang(pool, self.extents.get(pool.input[0], []))

    def is_between_integers(self, node: onnx.NodeProto) -> bool:
        """Whether it reads dequantized integers and something quantizes what it gives, or it is of integers itself."""
        source = self.producers.get(node.input[0])
        read = {other.op_type for other in self.nodes if node.output[0] in other.input}
        is_read = source is not None and source.op_type == "DequantizeLinear" and "QuantizeLinear" in read
        return is_read or node.op_type.startswith("QLinear")

    def has_stored_points(self, node: onnx.NodeProto, _: Given) -> bool:
        """Whether an integer product has a bias of integers and stored zero points of its weight."""
        sources = [self.producers.get(name) for name in node.input[1:]]
        weight, bias = sources if len(sources) == 2 else (None, None)
        if weight is None or bias is None or {weight.op_type, bias.op_type} != {"DequantizeLinear"}:
            return False
        return self.is_between_integers(node) and _reads(weight, 2) and weight.input[2] in self.stored

    def has_other_steps(self, node: onnx.NodeProto, _: Given) -> bool:
        """Whether it adds stored integers in other steps than those of the product that is quantized with them."""
        made = [self.producers.get(name) for name in node.input]
        product = node if node.op_type == "Gemm" else next((n for n in made if n and n.op_type == "MatMul"), None)
        read = {other.op_type for other in self.nodes if node.output[0] in other.input}
        if product is None or "QuantizeLinear" not in read:
            return False
        bias = node.input[2:] if product is node else [n for n in node.input if n not in product.output]
        scales = [self._step(name) for name in (*product.input[:2], *bias)]
        given = [scale for scale in scales if scale is not None]
        return len(given) == 3 and not np.allclose(given[2], given[0] * given[1], rtol=1e-3, atol=0)

    def _step(self, name: str) -> np.ndarray | None:
        """The stored scale of what a DequantizeLinear gives."""
        node = self.producers.get(name)
        found = None if node is None or node.op_type != "DequantizeLinear" else self.dense.get(node.input[1])
        return None if found is None else onnx.numpy_helper.to_array(found)

    def least(self, name: str) -> float:
        """The smallest of stored numbers; infinity where others make them."""
        return float(onnx.numpy_helper.to_array(self.dense[name]).min(initial=0)) if name in self.dense else math.inf

    def numbers(self, node: onnx.NodeProto, position: int) -> list[float]:
        """What is stored as one of a node's inputs; empty where it is left out or others make it."""
        name = node.input[position] if len(node.input) > position else ""
        return [] if name not in self.dense else onnx.numpy_helper.to_array(self.dense[name]).reshape(-1).tolist()

    def is_coerced(self, node: onnx.NodeProto, given: Given) -> bool:
        extents, axis = self.extents.get(node.input[0], []), given.get("axis", 1)
        return self.opset < _COERCED_BEFORE and (not extents or any(each != 1 for each in extents[axis:][1:]))

    def ends_between(self, node: onnx.NodeProto, given: Given) -> bool:
        """Whether a stored factor leaves a part of a place at the end of an axis; of an unknown one, whether it may."""
        scales, extents = self.numbers(node, 2), self.extents.get(node.input[0]) or [0] * len(self.numbers(node, 2))
        axes = given.get("axes", range(len(extents)))
        sizes = [scale * (extents[axis] or 1) for scale, axis in zip(scales, axes, strict=False)]
        return any(abs(size - round(size)) > 1e-3 for size in sizes)

    def odd_borders(self, node: onnx.NodeProto, given: Given) -> Iterator[int]:
        """The steps along axes whose border is larger at one end, where `auto_pad` sets it."""
        window = given.get("kernel_shape") or self.extents.get(node.input[1] if len(node.input) > 1 else "", [])[2:]
        extents = self.extents.get(node.input[0], [])[2:] or [0] * len(window)
        ones = [1] * len(window)
        spans = zip(window, given.get("dilations", ones), strict=False)
        for (span, apart), step, extent in zip(spans, given.get("strides", ones), extents, strict=False):
            reach = (span - 1) * apart + 1
            border = reach - (extent % step or step)
            if node.op_type == "ConvTranspose":
                border = reach - step
            elif extent == 0 and step > 1:
                border = 1  # nobody can tell
            if border > 0 and border % 2:
                yield step

    def has_other_extents(self, node: onnx.NodeProto, given: Given) -> bool:
        """Whether a transposed convolution is told another size than it has by itself, or one that cannot be told."""
        wanted = given.get("output_shape", [])
        return bool(wanted) and wanted != self.own_extents(node, given)

    def has_channels_elsewhere(self, node: onnx.NodeProto, _: Given) -> bool:
        """As many constant factors as the convolution in front has channels, along another axis than theirs."""
        layer, factors = self.producers.get(node.input[0]), self.extents.get(node.input[1], [])
        if layer is None or layer.op_type not in ("Conv", "ConvTranspose") or not self.is_constant(node.input[1]):
            return False
        weight, along = self.extents.get(layer.input[1], []), [i for i, each in enumerate(factors) if each != 1]
        channels = weight[layer.op_type == "ConvTranspose"] if len(weight) > 1 else 0
        return len(along) == 1 and factors[along[0]] == channels and len(factors) - along[0] != len(weight) - 1

    def has_slopes_off_channels(self, node: onnx.NodeProto, _: Given) -> bool:
        """Whether slopes differ along another axis than the second of what they multiply, as far as that is known."""
        slopes, rank = self.extents.get(node.input[1], []), len(self.extents.get(node.input[0], []))
        return rank > 0 and any(each != 1 and rank - i != 1 for i, each in enumerate(reversed(slopes), 1))

    def reads_averages(self, node: onnx.NodeProto, _: Given) -> bool:
        weight = self.producers.get(node.input[1])
        is_stored = weight is not None and weight.op_type == "DequantizeLinear" and weight.input[0] in self.stored
        return is_stored and self._before_integers(node.input[0]) in _AVERAGES

    def reads_computed(self, node: onnx.NodeProto, _: Given) -> bool:
        weights = node.input[_WEIGHTS.get(node.op_type, slice(1, None))]
        return any(name in self.prepared for name in weights)

    def _before_integers(self, name: str) -> str:
        """What kind of operator gives a value that is quantized and dequantized on its way."""
        node = self.producers.get(name)
        while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node = self.producers.get(node.input[0])
        return "" if node is None else node.op_type


_PARTS: dict[str, Callable[[_Graph, onnx.NodeProto, Given], bool]] = {  # the words are explained in runtimes.toml
    "gate": _Graph.is_gate,
    "overhang": lambda graph, node, given: any(given.get("pads", [])) and graph.overhang(node) > 0,
    "beyond": lambda graph, node, _: graph.overhang(node) > 0,
    "two beyond": lambda graph, node, _: graph.overhang(node) > 1,
    "beyond in integers": lambda graph, node, _: graph.is_between_integers(node) and graph.overhang(node) > 0,
    "entries": _Graph.has_entries,
    "activations": lambda _graph, node, given: _other_activations(node.op_type, given.get("activations", [])),
    "clipped": lambda _graph, _node, given: bool(given.get("clip")),
    "lengths": lambda _graph, node, _: _reads(node, 4),
    "peepholes": lambda _graph, node, _: _reads(node, 7),
    "peepholes and states": lambda _graph, node, _: _reads(node, 7) and (_reads(node, 5) or _reads(node, 6)),
    "axes": lambda _graph, node, _: _reads(node, 1),
    "coerced": _Graph.is_coerced,
    "reduced": lambda _graph, _node, given: given.get("reduction", b"none") != b"none",
    "rows": lambda graph, node, _: (
        graph.extents.get(node.input[1], [0])[-1] < len(graph.extents.get(node.input[0], []))
    ),
    "columns": lambda graph, node, _: (
        len(graph.extents.get(node.input[0], [])) > 2
        and len(slopes := graph.extents.get(node.input[1], [])) == 1
        and slopes != [1]
    ),
    "off channels": _Graph.has_slopes_off_channels,
    "no layer": lambda _graph, node, given: (
        not _is(given.get("alpha", 1), 1)
        or (_reads(node, 2) and not _is(given.get("beta", 1), 1))
        or not (_reads(node, 2) or given.get("transB"))
    ),
    "nearest": lambda _graph, _node, given: given.get("mode", b"nearest") == b"nearest",
    "part of a place": lambda graph, node, given: not _to_corners(given) and graph.ends_between(node, given),
    "corners, part of a place": lambda graph, node, given: _to_corners(given) and graph.ends_between(node, given),
    "unstated": lambda _graph, _node, given: "strides" not in given,
    "odd border": lambda graph, node, given: any(graph.odd_borders(node, given)),
    "odd border, one step": lambda graph, node, given: 1 in graph.odd_borders(node, given),
    "odd border, steps": lambda graph, node, given: any(step > 1 for step in graph.odd_borders(node, given)),
    "strided": lambda _graph, _node, given: any(step > 1 for step in given.get("strides", [])),
    "spread": lambda _graph, _node, given: any(apart > 1 for apart in given.get("dilations", [])),
    "from the end": lambda _graph, _node, given: any(axis < 0 for axis in given.get("axes", [])),
    "size": lambda _graph, _node, given: bool(given.get("output_shape")),
    "other size": _Graph.has_other_extents,
    "part of one": lambda _graph, _node, given: given.get("bias", 1.0) % 1 != 0,
    "scaled": lambda _graph, _node, given: not _is(given.get("alpha", 1), 1),
    "one axis": _Graph.is_over_one_axis,
    "uneven": _Graph.is_uneven,
    "stretched": _Graph.is_stretched,
    "sized": _Graph.is_cut_unevenly,
    "uneven border": lambda _graph, _node, given: _differs(given.get("pads", [])),
    "biased": lambda _graph, _node, given: bool(given.get("bias")),
    "steps": _Graph.has_other_steps,
    "stored points": _Graph.has_stored_points,
    "cut": lambda graph, node, _: graph.least(node.input[1]) < 0,
    "channels": _Graph.has_channels_elsewhere,
    "input": lambda graph, node, _: node.input[0] in graph.inputs,
    "averages": _Graph.reads_averages,
    "decode": lambda graph, node, _: bool(node.output) and node.output[0] in graph.prepared,
    "computed": _Graph.reads_computed,
}


def _inferred(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Types of the values between nodes, as far as they can be told."""
    try:
        yield from onnx.shape_inference.infer_shapes(model).graph.value_info
    except Exception:  # an operator outside of ONNX, or a contradiction: rules that ask for no type still hold
        return


def _to_corners(given: Given) -> bool:
    return given.get("coordinate_transformation_mode") == b"align_corners"


def _reads(node: onnx.NodeProto, position: int) -> bool:
    return len(node.input) > position and bool(node.input[position])


def _other_activations(kind: str, given: list[bytes]) -> bool:
    usual = _ACTIVATIONS[kind]
    return any(word != usual[place % len(usual)] for place, word in enumerate(given))


def _differs(pads: list[int]) -> bool:
    return pads[: len(pads) // 2] != pads[len(pads) // 2 :]


def _is(given: object, value: float | str) -> bool:
    """Whether an attribute is what a rule says."""
    if isinstance(value, str):
        return given == value.encode()
    return isinstance(given, int | float) and np.float32(given) == np.float32(value)


def _overhang(pool: onnx.NodeProto, extents: list[int]) -> float:
    """How many places a pool that rounds its size up looks beyond its border; infinity if nobody can tell."""
    words = {a.name: list(a.ints) for a in pool.attribute}
    window, border, most = words["kernel_shape"], words.get("pads", []), 0
    for axis, (span, extent) in enumerate(zip(window, extents[2:] or [0] * len(window), strict=True)):
        before, after = (border[axis], border[axis + len(window)]) if border else (0, 0)
        step = words["strides"][axis] if "strides" in words else 1
        last = -(-(extent + before + after - span) // step) * step
        if last >= extent + before:
            last -= step
        if not extent:
            return math.inf
        most = max(most, last + span - extent - before - after)
    return most


def _word(kind: int) -> str:
    return "" if kind == TensorProto.UNDEFINED else TensorProto.DataType.Name(kind).lower()
