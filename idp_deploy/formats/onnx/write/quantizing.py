"""Static int8 for ONNX: quantize and dequantize nodes around every layer that has an integer kernel.

onnxruntime's own quantizer places the nodes and fixes the ranges; here its result is made lean and safe for pruned
weights. Operators without an integer kernel (embeddings, recurrent layers, transposed convolutions, norms) keep float
activations, and their weights are stored as integers by the forms of `onnx_forms`. A value that only such operators
read is not rounded, since that would cost accuracy and save nothing: attention scores, the sums of residuals that a
norm reads, outputs of the model.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor
from torch.utils import _pytree

from idp_deploy.errors import ConversionError, hushed
from idp_deploy.formats.choosing import choosing
from idp_deploy.formats.onnx.words import CHOICES, INTEGERS
from idp_deploy.formats.onnx.write.nodes import read_inside

# layers with an integer kernel, and operators that pass integers on between layers
PRODUCTS = ["Gemm", "MatMul"]  # whose integer kernels give float results as well
LAYERS = ["Conv", *PRODUCTS]
OPERATORS = INTEGERS.split()
_SHAPES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_INT32 = np.iinfo(np.int32)
_PEAK = 126  # what the largest weight of a channel at least becomes: it decides the scale
_ROOM = 2.0**30  # steps of a bias that its scale must reach


def quantize_static(
    model: onnx.ModelProto, calibration: Sequence[tuple[Any, ...]], kept_float: Collection[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """8-bit activations by the ranges that `calibration` reaches, symmetric int8 weights with one scale a channel.

    Activations are unsigned: on x86 onnxruntime turns signed ones into unsigned ones where it can, and a convolution
    between the two kinds (as in front of a residual sum) then stays float.

    Integer weights keep the initializer's name; all other inner names become short. A layer whose bias is more steps
    than int32 counts keeps float activations: onnxruntime's quantizer would make the steps of its weights larger.

    Args:
        model: float, opset 18.
        calibration: calls of the model.
        kept_float: initializers that stay float, and with them the layers that read them.

    Returns:
        The model, and the weights of the layers whose bias is too large.
    """
    _own_biases(model.graph)
    original = {tensor.name: tensor for tensor in model.graph.initializer}
    large: set[str] = set()
    while True:  # every turn takes at least one layer out
        quantized, more = _quantized(model, calibration, {*kept_float, *large}, original)
        if not more:
            return quantized, tuple(name for name in original if name in large)
        large |= more


def _quantized(
    model: onnx.ModelProto,
    calibration: Sequence[tuple[Any, ...]],
    kept_float: Collection[str],
    original: Mapping[str, onnx.TensorProto],
) -> tuple[onnx.ModelProto, set[str]]:
    """The quantized model, and the weights of the layers whose bias it cannot hold."""
    from onnxruntime.quantization import QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    names = [value.name for value in model.graph.input]
    _refuse_sums_of_nothing(model.graph)
    inside = read_inside(model.graph)
    excluded = _float_nodes(model.graph, {*kept_float, *inside})
    # the quantizer advises to preprocess the model, which conversion has done, and divides by what a mask leaves
    with tempfile.TemporaryDirectory() as folder, hushed():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            quantize(
                source,
                target,
                _Calls(names, calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(excluded),
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
        except Exception as error:  # the quantizer raises whatever its passes meet
            raise ConversionError(
                f"onnxruntime cannot quantize this model: {error}", way_out="use scheme int8-weights"
            ) from error
        quantized = onnx.load(target)
    _free_products(quantized.graph, excluded, inside)
    _read_floats(quantized.graph, excluded)
    if large := _coarsened(quantized.graph, original):
        return quantized, large
    _revive_dead_channels(quantized.graph, original)
    del quantized.metadata_props[:]
    del quantized.graph.value_info[:]
    quantized.producer_name, quantized.producer_version = model.producer_name, ""
    _simplify_biases(quantized.graph)
    _shorten(quantized.graph, set(original), inside)
    return quantized, set()


def _own_biases(graph: onnx.GraphProto) -> None:
    """Give each reader of a layer's bias one of its own, in place: its integers count steps of that layer alone.

    onnxruntime fuses a product and the sum behind it into one kernel, which takes integers it finds there for its own.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    biases = {node.input[2] for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2}
    taken, read = {*tensors, *(name for node in graph.node for name in node.output)}, set[str]()
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in biases or name not in tensors:
                continue
            if name in read:
                own = next(f"{name}_{i}" for i in count(2) if f"{name}_{i}" not in taken)
                taken.add(own)
                graph.initializer.add().CopyFrom(tensors[name])
                graph.initializer[-1].name = node.input[place] = own
            read.add(name)


def _refuse_sums_of_nothing(graph: onnx.GraphProto) -> None:
    """ConversionError for a layer without inputs: onnxruntime fuses the product and leaves what it gives unset."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in PRODUCTS and node.input[1] in shapes:
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            shape = shapes[node.input[1]]
            if shape[-1 if turned else -2 :][:1] == (0,):
                raise ConversionError(
                    f"weight '{node.input[1]}' of shape {shape} has no inputs, and onnxruntime leaves its int8 product "
                    "unset",
                    way_out="take the layer out, or use scheme int8-weights",
                )


def _float_nodes(graph: onnx.GraphProto, kept_float: Collection[str]) -> set[str]:
    """Names of the operators that stay float.

    Beside the readers of `kept_float`, a bias added after a matrix product, which would be rounded to 8 bits itself,
    and whatever reaches no layer that computes with integers; the readers of a softmax over integers, which onnxruntime
    would make one integer kernel that overflows where the shares are small; those of pieces of a weight, which the
    quantizer would take for activations and round once more; those of a stack of matrices, whose scales no integer
    kernel takes; and layers by whose result the model chooses. What clips a convolution's result is part of its kernel,
    unless its bounds lie on one side of zero: the range of integers always holds zero.
    """
    constants = {tensor.name for tensor in graph.initializer}
    stacks = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2}
    producers = {name: node.op_type for node in graph.node for name in node.output}
    shares, computed, one_sided = _shares_of_integers(graph), _computed(graph), _one_sided(graph)
    ops = [(node.op_type, node.input, node.output) for node in graph.node]
    chosen = choosing(ops, CHOICES, ("Cast", *_SHAPES), LAYERS)
    served: set[str] = set()  # what integer kernels read
    kept = set()
    for node in reversed(graph.node):
        clips = node.op_type in ("Clip", "Relu") and producers.get(node.input[0]) == "Conv"
        serves = node.op_type in LAYERS or clips or not served.isdisjoint(node.output)
        spoilt = not constants.isdisjoint(node.input) if node.op_type == "Add" else set(kept_float) & set(node.input)
        spoilt = spoilt or (node.op_type in LAYERS and not computed.isdisjoint(node.input))
        spoilt = spoilt or (node.op_type == "MatMul" and node.input[1] in stacks)
        spoilt = spoilt or (node.op_type in LAYERS and not chosen.isdisjoint(node.output))
        spoilt = spoilt or not one_sided.isdisjoint(node.output)
        if node.op_type in OPERATORS and serves and not spoilt and shares.isdisjoint(node.input):
            served.update(node.input)
        else:
            kept.add(node.name)
    return kept


def _one_sided(graph: onnx.GraphProto) -> set[str]:
    """What Clips give whose bounds may leave out zero: for the quantizer, rounding in their range is clipping."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Clip":
            low, high = (known.get(name) if name else 0 for name in [*node.input[1:], "", ""][:2])
            if low is None or high is None or low > 0 or high < 0:
                found.update(node.output)
    return found


def _computed(graph: onnx.GraphProto) -> set[str]:
    """What is computed from constants alone."""
    known = {tensor.name for tensor in graph.initializer}
    found: set[str] = set()
    for node in graph.node:
        if node.input and all(name in known or not name for name in node.input):
            known.update(node.output)
            found.update(node.output)
    return found


def _shares_of_integers(graph: onnx.GraphProto) -> set[str]:
    """What softmaxes give that read a result of an integer kernel, and where only its shape changes.

    A product's result stays float where no other integer kernel reads it: attention scores are not meant.
    """
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Softmax":
            source = node.input[0]
            while source in producers and producers[source].op_type in _SHAPES:
                source = producers[source].input[0]
            made = producers.get(source)
            if (
                made is not None
                and made.op_type in OPERATORS
                and not (made.op_type in PRODUCTS and readers[source] == 1)
            ):
                found.update(node.output)
        elif node.op_type in _SHAPES and node.input[0] in found:
            found.update(node.output)
    return found


def _free_products(graph: onnx.GraphProto, excluded: Collection[str], inside: Collection[str]) -> None:
    """Leave a matrix product's result float where no integer kernel reads it, nor a body it by its name."""
    products = {name for node in graph.node if node.op_type in PRODUCTS for name in node.output if name not in inside}
    served = {
        name for node in graph.node if node.op_type in OPERATORS and node.name not in excluded for name in node.input
    }
    quantizers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    renames, dropped = {}, set()
    for node in graph.node:
        quantizer = quantizers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantizer is not None and quantizer.input[0] in products and node.output[0] not in served:
            renames[quantizer.input[0]] = node.output[0]
            dropped |= {quantizer.name, node.name}
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node if n.name not in dropped]
    for node in nodes:
        node.output[:] = [renames.get(name, name) for name in node.output]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {*inside}
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _read_floats(graph: onnx.GraphProto, excluded: Collection[str]) -> None:
    """Let layers that stay float read what was float before it was rounded for others, which the quantizer does not."""
    rounding = ("QuantizeLinear", "DequantizeLinear")
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    plain = {node.output[0]: sources[node.input[0]] for node in graph.node if node.input and node.input[0] in sources}
    floats = {value.name for value in graph.input}
    for node in graph.node:
        if node.op_type not in rounding and (node.op_type not in OPERATORS or node.name in excluded):
            floats.update(node.output)
    for node in graph.node:
        if node.op_type in LAYERS and node.name in excluded and plain.get(node.input[0]) in floats:
            node.input[0] = plain[node.input[0]]


class _Calls:
    """onnxruntime's calibration protocol over calls of the model."""

    def __init__(self, names: list[str], calls: Sequence[tuple[Any, ...]]) -> None:
        self.feeds = iter([_feed(names, call) for call in calls])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next call's inputs, None after the last."""
        return next(self.feeds, None)


def _feed(names: list[str], call: tuple[Any, ...]) -> dict[str, np.ndarray]:
    tensors = [leaf.detach().cpu().numpy() for leaf in _pytree.tree_leaves(call) if isinstance(leaf, Tensor)]
    return dict(zip(names, tensors, strict=True))


class _Layers:
    """The quantized layers of a graph: (scale of the input, weight's DequantizeLinear, bias's DequantizeLinear)."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        producers = {name: node for node in graph.node for name in node.output if node.op_type == "DequantizeLinear"}
        self.found = []
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
                x, weight, bias = (producers.get(name) for name in node.input[:3])
                if x is not None and weight is not None and bias is not None and bias.input[0] in self.tensors:
                    self.found.append((x.input[1], weight, bias))

    def array(self, name: str) -> np.ndarray:
        """The values of an initializer."""
        return numpy_helper.to_array(self.tensors[name])

    def replace(self, name: str, values: np.ndarray) -> None:
        """Give an initializer other values."""
        self.tensors[name].CopyFrom(numpy_helper.from_array(values, name))


def _revive_dead_channels(graph: onnx.GraphProto, original: Mapping[str, onnx.TensorProto]) -> None:
    """A channel without weights has an arbitrary scale, and its bias is rounded to that scale: take a usual one."""
    layers = _Layers(graph)
    for x_scale, weight, bias in layers.found:
        q, scale = layers.array(weight.input[0]), layers.array(weight.input[1]).copy()
        dead = ~(q != 0).any(axis=_others(weight, q))
        if scale.ndim == 0 or not dead.any() or bias.output[0] not in original:
            continue
        exact = numpy_helper.to_array(original[bias.output[0]]).astype(np.float64)
        usual = np.median(scale[~dead]) if not dead.all() else np.float32(1 / 127)
        least = np.abs(exact) / _ROOM / layers.array(x_scale)
        scale[dead] = np.maximum(usual, least)[dead]
        step = layers.array(x_scale) * scale
        rounded = np.clip(np.rint(exact / step), _INT32.min, _INT32.max).astype(np.int32)
        layers.replace(weight.input[1], scale)
        layers.replace(bias.input[0], np.where(dead, rounded, layers.array(bias.input[0])))
        layers.replace(bias.input[1], np.where(dead, step, layers.array(bias.input[1])).astype(np.float32))


def _coarsened(graph: onnx.GraphProto, original: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Weights that the quantizer gave larger steps than they need, so that int32 counts their layer's bias."""
    layers = _Layers(graph)
    found = set()
    for _, weight, _ in layers.found:
        q, name = layers.array(weight.input[0]), weight.input[0].removesuffix("_quantized")
        others = _others(weight, q)
        if name in original:
            alive = (numpy_helper.to_array(original[name]) != 0).any(axis=others)
            peaks = np.abs(q.astype(np.int32)).max(axis=others, initial=0)
            if np.any(alive & (peaks < _PEAK)):
                found.add(name)
    return found


def _others(weight: onnx.NodeProto, q: np.ndarray) -> tuple[int, ...]:
    """All axes of a weight but that of its scales."""
    axis = next((a.i for a in weight.attribute if a.name == "axis"), 1)
    return tuple(a for a in range(q.ndim) if a != axis)


def _simplify_biases(graph: onnx.GraphProto) -> None:
    """A bias's scale is the product of two scales that the file has anyway, and its zero point is 0 by default."""
    layers = _Layers(graph)
    unused = set()
    for x_scale, weight, bias in layers.found:
        scale = layers.array(bias.input[1])
        product = layers.array(x_scale) * layers.array(weight.input[1])
        if len(bias.input) > 2 and not layers.array(bias.input[2]).any():
            unused.add(bias.input.pop(2))
        if scale.shape == product.shape and np.array_equal(scale, product) and bias.input[1] not in unused:
            unused.add(bias.input[1])
            node = onnx.helper.make_node("Mul", [x_scale, weight.input[1]], [bias.input[1]])
            graph.node.insert(0, node)
    kept = [tensor for tensor in layers.tensors.values() if tensor.name not in unused]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _shorten(graph: onnx.GraphProto, original: Collection[str], inside: Collection[str]) -> None:
    """Inner names become "_q1", "_q2", …; integers of a weight take the weight's own name. Bodies read `inside`."""
    boundary = {value.name for value in (*graph.input, *graph.output)} | {*inside}
    stored = [tensor.name for tensor in graph.initializer]
    renames = {name: name.removesuffix("_quantized") for name in stored}
    renames = {old: new for old, new in renames.items() if new in original and (old == new or new not in stored)}
    number = 0
    for name in (*stored, *(name for node in graph.node for name in node.output)):
        if name and name not in renames and name not in boundary:
            number += 1
            renames[name] = f"_q{number}"
    for tensor in graph.initializer:
        tensor.name = renames.get(tensor.name, tensor.name)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renames.get(name, name)
