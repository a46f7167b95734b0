"""integer: a float TFLite file → int8 weights and activations, ranges taken from calibration inputs.

ai-edge-quantizer chooses the scales: symmetric and one a channel for weights, one a tensor for activations. Inputs and
outputs stay float. Channels whose weights are all zero are repaired afterwards: the quantizer gives them a scale near
zero, and their bias, measured in that scale, saturates and is lost.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, hushed
from idp_deploy.formats.choosing import choosing
from idp_deploy.formats.tflite.words import CHOICES, DELICATE, ENTRYWISE, HANDS_ON, PRODUCTS
from idp_deploy.formats.tflite.write.graph import add_buffer, constants, kind, schema
from idp_deploy.formats.tflite.write.serializing import serialize

_WITH_BIAS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": -1, "FULLY_CONNECTED": 0}
_DELICATE = frozenset(DELICATE.split())
_ROUNDS = frozenset({"CEIL", "FLOOR", "ROUND"})
_KERNELS = frozenset({*_WITH_BIAS, "CONV_3D", "TRANSPOSE_CONV"})
_LOST = 0.01  # of a bias: a repaired channel's may round to more than a step
_ENTRYWISE = frozenset(ENTRYWISE.split())
_MOVES = frozenset(
    {"BROADCAST_TO", "CAST", "CONCATENATION", "EXPAND_DIMS", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE"}
)
_SPREADING = _ENTRYWISE | _DELICATE | _MOVES
_FAINT = 1 / 16  # sixteen steps at most
_HIDES = 5e3  # what hides others is as large as this: 256 levels that reach so far tell nothing else apart


def quantize_static(model: Any, calls: Sequence[Mapping[str, np.ndarray]], keep_float: Collection[str]) -> bytes:
    """The quantized file of a float model. Where infinities pass, as those of a mask do, operators stay float.

    Args:
        calls: calibration inputs by signature name, in the file's layout.
        keep_float: operators, by the name of their result, that stay float.

    Raises:
        ConversionError: the quantizer cannot handle the model.
    """
    with _quiet():
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.qtyping import TFLOperationName

        try:
            content = serialize(model)
            engine = quantizer.Quantizer(bytearray(content), recipe.static_wi8_ai8())
            no_quantization = quantizer.AlgorithmName.NO_QUANTIZE
            for edge in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
                engine.update_quantization_recipe(".*", edge, algorithm_key=no_quantization)

            def spare(names: Collection[str]) -> None:
                for name in names:
                    engine.update_quantization_recipe(
                        f"^{re.escape(name)};?$", TFLOperationName.ALL_SUPPORTED, algorithm_key=no_quantization
                    )

            spare(keep_float)
            spare(unbounded(model, calls))
            ranges = widest([engine.calibrate({"serving_default": [dict(call)]}, num_threads=1) for call in calls])
            if not ranges:  # every operator stays float, which the quantizer takes for a mistake
                return content
            spare(faint(model, ranges))
            return bytes(engine.quantize(ranges).quantized_model)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConversionError(
                f"ai-edge-quantizer cannot quantize this model to int8: {first[:300]}",
                way_out="use --scheme int8-weights, which keeps activations float",
            ) from error


def delicate(model: Any) -> list[str]:
    """Names of the results that stay float: of delicate operators, of squares, of means and sums over channels, of
    whatever is computed entry by entry from those (the rest of a layer norm or an ELU, a masked softmax), and of what
    places are computed by before they are rounded, where a step of 8 bits may be several pixels; and of layers by whose
    result the model chooses what it computes, as routers do."""
    graph = model.subgraphs[0]
    axes = {c.index: c.values for c in constants(model, floats_only=False)}
    tainted: set[int] = set()
    for op in graph.operators:
        name = kind(model, op)
        inputs = [int(t) for t in op.inputs]
        spared = name in _DELICATE or (name in _ENTRYWISE and not tainted.isdisjoint(inputs))
        spared |= name == "MUL" and inputs[0] == inputs[1]  # of a tenth a hundredth is left, which is a step of 8 bits
        spared |= name in _KERNELS and inputs[1] not in axes  # of a kernel that is computed no scale a channel is known
        if name in ("MEAN", "SUM") and inputs[1] in axes:
            rank = len(graph.tensors[inputs[0]].shape)
            spared |= bool(np.any(axes[inputs[1]] % rank == rank - 1))
        if spared:
            tainted.update(int(t) for t in op.outputs)
    return [graph.tensors[t].name for t in sorted(tainted | _rounded(model) | _choosing(model))]


def between(model: Any, floats: Collection[str]) -> list[str]:
    """Names of further results that stay float: what is computed from floats alone and read as floats alone, so that
    8 bits would save nothing.

    Args:
        floats: the results that stay float already.
    """
    graph = model.subgraphs[0]
    stored = {c.index for c in constants(model, floats_only=False)}
    known = {i for i, tensor in enumerate(graph.tensors) if tensor.name in floats}
    ends = {int(t) for t in graph.inputs}
    spared: set[int] = set()
    for op in graph.operators:
        read, made = {int(t) for t in op.inputs if t >= 0} - stored, [int(t) for t in op.outputs]
        if not known.issuperset(made) and kind(model, op) not in _KERNELS and read <= known | ends | spared:
            spared.update(made)
    for op in reversed(graph.operators):  # what integers are made of becomes integers itself
        if not known.intersection(int(t) for t in op.outputs) and int(op.outputs[0]) not in spared:
            spared.difference_update(int(t) for t in op.inputs)
    return [graph.tensors[t].name for t in sorted(spared)]


def _rounded(model: Any) -> set[int]:
    """Results that become whole numbers, be it after more that is computed entry by entry; not those of layers."""
    graph = model.subgraphs[0]
    counted = (schema().TensorType.INT32, schema().TensorType.INT64)
    exact: set[int] = set()
    spared: set[int] = set()
    for op in reversed(graph.operators):
        name, made = kind(model, op), {int(t) for t in op.outputs}
        counts = name == "CAST" and all(int(graph.tensors[t].type) in counted for t in made)
        if name in _ROUNDS or counts:
            exact.update(int(t) for t in op.inputs)
        elif name in _SPREADING and made & exact:
            spared |= made & exact
            exact.update(int(t) for t in op.inputs)
    return spared


def _choosing(model: Any) -> set[int]:
    ops = [
        (kind(model, op), list(map(int, op.inputs)), list(map(int, op.outputs))) for op in model.subgraphs[0].operators
    ]
    return choosing(ops, CHOICES, HANDS_ON, PRODUCTS) - {-1}  # an input that is left out


def unbounded(model: Any, calls: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Names of the results that no scale of 8 bits holds: of operators that read infinities, or numbers so large that
    they hide others, as masks do; and of whatever is computed entry by entry from those, up to the softmax behind.

    The ranges that ai-edge-quantizer measures do not tell: it leaves infinities out, and a mask seems to be all zeros.

    Args:
        calls: calibration inputs by signature name.
    """
    graph = model.subgraphs[0]
    borders = _borders(model)
    infinite = {c.index for c in constants(model) if not np.isfinite(c.values).all()} - borders
    large = infinite | {c.index for c in constants(model) if _hides(c.values)} - borders
    for signature in model.signatureDefs:
        given = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.inputs}
        large |= {given[name] for call in calls for name, x in call.items() if name in given and _hides(x)}
    spared = []
    for op in graph.operators:
        name, read, made = kind(model, op), {int(t) for t in op.inputs}, [int(t) for t in op.outputs]
        if read & infinite or (name in _SPREADING and read & large):
            spared += made
            large |= set(made) if name != "SOFTMAX" else set()
    return [graph.tensors[t].name for t in spared]


def faint(model: Any, ranges: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Names of the softmaxes that never come near 1, over the places of an image say: in steps of 1/256, which TFLite
    fixes, nothing would be left of them.

    Args:
        ranges: of every result, as they were met.
    """
    graph = model.subgraphs[0]
    made = [graph.tensors[int(op.outputs[0])].name for op in graph.operators if kind(model, op) == "SOFTMAX"]
    return [name for name in made if name in ranges and float(np.max(ranges[name]["max"])) < _FAINT]


def _borders(model: Any) -> set[int]:
    """Constants that surround an image for a maximum to be taken: 8 bits hold their lowest number just as well."""
    operators = model.subgraphs[0].operators
    pools = {int(op.inputs[0]) for op in operators if kind(model, op) == "MAX_POOL_2D"}
    others = {int(t) for op in operators if kind(model, op) != "MAX_POOL_2D" for t in op.inputs}
    padded = [op for op in operators if kind(model, op) == "PADV2" and int(op.outputs[0]) in pools - others]
    return {int(op.inputs[2]) for op in padded}


def _hides(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and bool(np.any(np.abs(values) >= _HIDES))


def widest(met: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """The range that holds every value of every call; that of nothing but zeros, of which any scale will do, is 0 to 1.

    Calibrating all calls at once would average their ranges, most weight on the first, and saturate the others.

    >>> one, other = {"min": np.array(-1.0), "max": np.array(1.0)}, {"min": np.array(0.0), "max": np.array(3.0)}
    >>> widest([{"x": one}, {"x": other}])
    {'x': {'min': array(-1.), 'max': array(3.)}}
    """
    ranges: dict[str, dict[str, np.ndarray]] = {}
    for call in met:
        for name, seen in call.items():
            known = ranges.setdefault(name, dict(seen))
            if "min" in seen and "max" in seen:
                known["min"], known["max"] = (
                    np.asarray(np.minimum(known["min"], seen["min"])),
                    np.asarray(np.maximum(known["max"], seen["max"])),
                )
    for seen in ranges.values():
        if "max" in seen and not np.any(seen["min"]) and not np.any(seen["max"]):
            seen["max"] = np.ones_like(seen["max"])
    return ranges


def rejoin_integers(model: Any) -> None:
    """Let integer operators read integers again, in place.

    Of an output of the model that is the input of a layer as well the quantizer hands the layer the floats.
    """
    graph = model.subgraphs[0]
    integer = schema().TensorType.INT8
    source = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if kind(model, op) == "DEQUANTIZE"}
    for op in graph.operators:
        if kind(model, op) not in ("CAST", "QUANTIZE") and all(
            int(graph.tensors[int(t)].type) == integer for t in op.outputs
        ):
            op.inputs = [source.get(int(t), int(t)) for t in op.inputs]


def repair_dead_channels(model: Any, biases: Mapping[str, np.ndarray]) -> None:
    """Give channels without a non-zero weight the largest scale of their layer, and their bias back, in place.

    Args:
        biases: the float biases by tensor name.
    """
    graph = model.subgraphs[0]
    stored = {c.index: c.values for c in constants(model, floats_only=False)}
    for op in graph.operators:
        axis = _WITH_BIAS.get(kind(model, op))
        if axis is None or len(op.inputs) < 2 or int(op.inputs[1]) not in stored:
            continue
        weight = graph.tensors[int(op.inputs[1])]
        values = stored[int(op.inputs[1])]
        if values.dtype != np.int8 or weight.quantization is None or weight.quantization.scale is None:
            continue
        scales = np.array(weight.quantization.scale, np.float32)
        if len(scales) != values.shape[axis]:
            continue
        channels = np.moveaxis(values, axis, 0).reshape(len(scales), -1)
        dead = ~channels.any(axis=1)
        if not dead.any():
            continue
        scales[dead] = (
            scales[~dead].max() if (~dead).any() else _scale(graph, op.outputs[0]) / _scale(graph, op.inputs[0])
        )
        weight.quantization.scale = scales
        bias = graph.tensors[int(op.inputs[2])] if len(op.inputs) > 2 and int(op.inputs[2]) >= 0 else None
        if bias is None or bias.name not in biases:
            continue
        incoming = graph.tensors[int(op.inputs[0])].quantization.scale[0]
        bias.quantization.scale = (scales * incoming).astype(np.float32)
        steps = np.rint(biases[bias.name].astype(np.float64) / (scales.astype(np.float64) * incoming))
        limit = 2**30  # half of the range, so that the accumulator has room
        bias.buffer = add_buffer(model, np.clip(steps, -limit, limit).astype(np.int32))


def lost_biases(model: Any, biases: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Name of a bias → the entry that is furthest from what its int32 means: more steps than int32 counts.

    Args:
        biases: the float biases by tensor name.
    """
    graph = model.subgraphs[0]
    stored = {graph.tensors[c.index].name: c for c in constants(model, floats_only=False)}
    lost = {}
    for name, exact in biases.items():
        found = stored.get(name)
        if found is None or found.values.dtype != np.int32 or found.values.shape != exact.shape:
            continue
        scale = np.asarray(graph.tensors[found.index].quantization.scale, np.float64)
        off = np.abs(found.values * scale - exact)
        if np.any(off > np.maximum(scale, _LOST * np.abs(exact))):
            lost[name] = float(exact[np.argmax(off)])
    return lost


def _scale(graph: Any, tensor: int) -> np.float32:
    """The scale of an activation; 1 where it is float."""
    quantization = graph.tensors[int(tensor)].quantization
    known = quantization is not None and quantization.scale is not None and len(quantization.scale)
    return np.float32(quantization.scale[0] if known else 1.0)


@contextmanager
def _quiet() -> Any:
    with hushed("ERROR"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
