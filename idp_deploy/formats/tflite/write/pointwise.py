"""pointwise: int8 fully connected layers as 1×1 convolutions, where that lets their weights be stored sparsely.

XNNPACK refuses a file whose int8 FULLY_CONNECTED weights come out of DENSIFY, and takes CONV_2D ones. y = Wx + b over
rows of x is the same sum as a 1×1 convolution over pixels: (…, in) → (1, 1, rows, in) → (1, 1, rows, out) → (…, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from idp_deploy.formats.tflite.write import sparse as sparse
from idp_deploy.formats.tflite.write.graph import add_tensor, constants, kind, operator, schema
from idp_deploy.formats.tflite.write.matching import Match

_COST_BYTES = 600  # two RESHAPEs with their tensors


def as_convolutions(
    model: Any, matches: Mapping[int, Match], masks: Mapping[str, np.ndarray], *, place: int = 0
) -> None:
    """Rewrite, in place, each int8 FULLY_CONNECTED whose sparse weights are smaller by more than the rewrite costs.

    Args:
        place: of the subgraph, whose tensors `matches` counts.
    """
    graph = model.subgraphs[place]
    known = {c.index: c for c in constants(model, floats_only=False, place=place)}
    for op in list(graph.operators):
        weight = known.get(int(op.inputs[1])) if kind(model, op) == "FULLY_CONNECTED" else None
        if weight is None or weight.values.dtype != np.int8 or len(weight.readers) != 1:
            continue
        source, result = (graph.tensors[int(i)] for i in (op.inputs[0], op.outputs[0]))
        rows, inputs = prod(int(n) for n in source.shape[:-1]), weight.values.shape[1]
        if source.type != schema().TensorType.INT8 or int(source.shape[-1]) != inputs or -1 in _signature(source):
            continue
        mask, found = weight.values != 0, matches.get(weight.index)
        if found is not None and found.parameter in masks:
            mask |= found.lay_out(masks[found.parameter], mask.shape)
        if sparse.smallest(mask, 1)[1] + sparse.OVERHEAD_BYTES + _COST_BYTES < weight.values.nbytes:
            _rewrite(model, place, op, source, result, rows)


def _rewrite(model: Any, place: int, op: Any, source: Any, result: Any, rows: int) -> None:
    graph = model.subgraphs[place]
    weight = graph.tensors[int(op.inputs[1])]
    outputs, inputs = (int(n) for n in weight.shape)
    weight.shape = [outputs, 1, 1, inputs]
    pixels = _reshaped(model, place, source, [1, 1, rows, inputs])
    before = _reshaped(model, place, result, [1, 1, rows, outputs])
    bias = int(op.inputs[2]) if len(op.inputs) > 2 else -1
    if bias < 0:  # int8 convolutions must have one
        bias = add_tensor(model, _vector(outputs), "INT32", np.zeros(outputs, np.int32), place=place)
        graph.tensors[bias].quantization = _bias_scales(source, weight)
    convolution = operator(model, "CONV_2D", [pixels, int(op.inputs[1]), bias], [before])
    options = convolution.builtinOptions
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
    options.padding = schema().Padding.VALID
    options.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
    at = graph.operators.index(op)
    graph.operators[at : at + 1] = [
        _reshape(model, place, int(op.inputs[0]), pixels),
        convolution,
        _reshape(model, place, before, int(op.outputs[0])),
    ]


def _reshaped(model: Any, place: int, like: Any, shape: list[int]) -> int:
    tensors = model.subgraphs[place].tensors
    index = add_tensor(model, like, "INT8", None, place=place)
    tensors[index].shape, tensors[index].shapeSignature = shape, None
    tensors[index].quantization, tensors[index].name = like.quantization, f"{like.name}#pixels"
    return index


def _reshape(model: Any, place: int, source: int, result: int) -> Any:
    tensors = model.subgraphs[place].tensors
    shape = np.array(tensors[result].shape, np.int32)
    constant = add_tensor(model, _vector(len(shape)), "INT32", shape, place=place)
    op = operator(model, "RESHAPE", [source, constant], [result])
    op.builtinOptions.newShape = [int(n) for n in shape]
    return op


def _vector(extent: int) -> Any:
    tensor = schema().TensorT()
    tensor.shape, tensor.hasRank = [extent], True
    return tensor


def _bias_scales(source: Any, weight: Any) -> Any:
    """A bias counts in steps of input scale · weight scale."""
    parameters = schema().QuantizationParametersT()
    parameters.scale = np.asarray(weight.quantization.scale, np.float32) * np.float32(source.quantization.scale[0])
    parameters.zeroPoint = np.zeros(len(parameters.scale), np.int64)
    return parameters


def _signature(tensor: Any) -> list[int]:
    return [] if tensor.shapeSignature is None else [int(n) for n in tensor.shapeSignature]
