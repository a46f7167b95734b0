"""unfuse: take factors that the converter multiplied into a weight out of it again.

The converter computes γ·(Wx + b) as (γW)x + γb. The file would then hold a weight that the model does not have, and
nobody could prove it. The factor goes back behind the layer as a MUL, which is the graph the model has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from idp_deploy.formats.tflite.write.graph import add_buffer, add_tensor, constants, kind, operator, schema
from idp_deploy.formats.tflite.write.matching import Match

_OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": -1, "FULLY_CONNECTED": 0}
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


def unfuse_factors(model: Any, matches: Mapping[int, Match], parameters: Mapping[str, np.ndarray]) -> dict[int, Match]:
    """Undo the fusion, in place, in every layer whose weight is a parameter times a factor for each output channel.

    Returns:
        The matches, now exact for those weights.
    """
    graph = model.subgraphs[0]
    known = {c.index: c for c in constants(model)}
    result = dict(matches)
    for op in list(graph.operators):
        axis = _OUTPUT_AXIS.get(kind(model, op))
        index = int(op.inputs[1]) if axis is not None and len(op.inputs) > 1 else -1
        found = matches.get(index)
        if axis is None or found is None or found.exact or len(known[index].readers) != 1:
            continue
        stored = known[index].values
        original = found.lay_out(parameters[found.parameter], stored.shape)
        factors = _factors(stored, original, axis)
        if factors is None:
            continue
        bias = int(op.inputs[2]) if len(op.inputs) > 2 else -1
        if bias >= 0 and (bias not in known or len(known[bias].readers) != 1):
            continue
        graph.tensors[index].buffer = add_buffer(model, np.ascontiguousarray(original, np.float32))
        if bias >= 0:
            graph.tensors[bias].buffer = add_buffer(model, (known[bias].values / factors).astype(np.float32))
        _multiply_after(model, op, factors)
        result[index] = replace(found, exact=True)
    return result


def _factors(stored: np.ndarray, original: np.ndarray, axis: int) -> np.ndarray | None:
    """The factor of each channel, 1 where the channel is all zero; None where stored is not original times factors."""
    rows = [np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.float64) for w in (stored, original)]
    largest = np.abs(rows[1]).argmax(axis=1, keepdims=True)
    peaks = [np.take_along_axis(r, largest, axis=1) for r in rows]
    factors = np.divide(peaks[0], peaks[1], out=np.ones_like(peaks[0]), where=peaks[1] != 0)
    if not factors.all() or (np.abs(rows[0] - rows[1] * factors) > _ROUNDING * np.abs(rows[0])).any():
        return None
    return factors.astype(np.float32).reshape(-1)


def _multiply_after(model: Any, op: Any, factors: np.ndarray) -> None:
    """Insert MUL by `factors` behind `op`; a fused activation moves to it."""
    graph = model.subgraphs[0]
    output = int(op.outputs[0])
    before = add_tensor(model, graph.tensors[output], "FLOAT32", None)
    shape = schema().TensorT()
    shape.shape, shape.hasRank = [len(factors)], True
    constant = add_tensor(model, shape, "FLOAT32", factors)
    multiply = operator(model, "MUL", [before, constant], [output])
    multiply.builtinOptions.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
    op.builtinOptions.fusedActivationFunction = schema().ActivationFunctionType.NONE
    op.outputs = [before]
    graph.operators.insert(graph.operators.index(op) + 1, multiply)
