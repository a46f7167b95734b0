"""storing: rewrite the constants of a model so that each lies in the file the smallest way the runtimes can decode.

A constant c becomes: stored tensor → DENSIFY (where sparse pays) → DEQUANTIZE (where narrower than float32) → c, so
every operator keeps the input it had. Runtimes run such decoders once, when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from idp_deploy.errors import UsageError
from idp_deploy.flow import Levels
from idp_deploy.formats.notes import Placement
from idp_deploy.formats.tflite.write import sparse as sparse
from idp_deploy.formats.tflite.write.graph import Constant, add_buffer, add_tensor, constants, kind, operator, schema
from idp_deploy.formats.tflite.write.matching import Match
from idp_deploy.formats.tflite.write.micro import refuse_micro
from idp_deploy.formats.writing import laid_out, means, pruned
from idp_deploy.quantizers import quantize_int8

# operator → (position of its weights, axis of its output channels); the operators whose weights may come from a decoder
WEIGHTS: dict[str, tuple[int, int]] = {
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, -1),
    "FULLY_CONNECTED": (1, 0),
    "TRANSPOSE_CONV": (1, 0),
    "CONV_3D": (1, -1),
    "BATCH_MATMUL": (1, -1),
    "GATHER": (0, 0),
    "EMBEDDING_LOOKUP": (1, 0),
}
_BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
# XNNPACK refuses int8 weights of a fully connected layer that come out of DENSIFY; convolutions are exact.
SPARSE_INT8 = frozenset({"CONV_2D", "GATHER", "EMBEDDING_LOOKUP"})
# Where XNNPACK runs DENSIFY → DEQUANTIZE itself it keeps the result: readers outside of it (a GATHER, say) see garbage.
BOTH_DECODERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
_LARGEST_FLOAT16 = 65504.0
PLAIN = {np.dtype(np.float32): "FLOAT32", np.dtype(np.float16): "FLOAT16", np.dtype(np.int8): "INT8"}


@dataclass(frozen=True)
class Plan:
    """How weights are to be stored: sparsely or not, and in which number type.

    `quantized` holds the parameters that the scheme covers; `block` is as in `tflite_sparse.smallest`.
    """

    scheme: str | None
    quantized: Collection[str]
    is_dense: bool = False
    forced: bool = False
    block: int | None = None
    one_decoder: bool = False  # a weight is stored sparsely or narrowly, never both
    levels: Mapping[str, Levels] = field(default_factory=dict)  # what `quantize` made of the parameters

    def attempts(self) -> tuple[tuple[Plan, str], ...]:
        """This plan, then what to go on with when a runtime fails on the file; each with what to tell the user."""
        single = replace(self, one_decoder=True)
        others = (
            (single, "no weight is stored both sparsely and narrowly, since a runtime failed on one that was"),
            (replace(single, is_dense=True), "all weights are stored dense, since a runtime failed on sparse ones"),
        )
        return ((self, ""), *(() if self.is_dense or self.forced else others))


def plan(encoding: str, scheme: str | None, quantized: Collection[str]) -> Plan:
    """From the words of the command line.

    Raises:
        UsageError: an encoding that TFLite has no decoder for.

    >>> plan("block:1x4", None, ()).block
    4
    """
    kind, _, shape = encoding.partition(":")
    if encoding in ("auto", "dense", "csr"):
        return Plan(scheme, quantized, encoding == "dense", encoding == "csr", 1 if encoding == "csr" else None)
    if encoding == "tflm":
        refuse_micro(scheme)
        return Plan(scheme, quantized, is_dense=True)
    rows, _, columns = shape.partition("x")
    if kind == "block" and rows == "1" and columns.isdecimal() and int(columns) > 1:
        return Plan(scheme, quantized, forced=True, block=int(columns))
    raise UsageError(
        f"TFLite has no encoding {encoding!r}", way_out="one of auto, dense, csr, block:1x4 (any 1xN), tflm"
    )


def prune_constants(model: Any, matches: Mapping[int, Match], masks: Mapping[str, np.ndarray]) -> None:
    """Zero, in place, what `masks` does not keep of the main subgraph's constants."""
    for constant in list(constants(model)):
        found = matches.get(constant.index)
        if found is not None and found.parameter in masks:
            values = pruned(constant.values, found.lay_out(masks[found.parameter], constant.values.shape))
            if values is not constant.values:
                model.subgraphs[0].tensors[constant.index].buffer = add_buffer(model, values)


def store_constants(
    model: Any, matches: Mapping[int, Match], masks: Mapping[str, np.ndarray], plan: Plan
) -> dict[str, Placement]:
    """Rewrite the main subgraph's constants in place according to `plan`; how each parameter lies now."""
    decoders: list[Any] = []
    placed: dict[str, Placement] = {}
    for constant in list(constants(model, floats_only=False)):
        kinds = {word for word, position in constant.readers if WEIGHTS.get(word, (None,))[0] == position}
        is_weight = bool(kinds) and len(kinds) == len({word for word, _ in constant.readers})
        is_bias = all(_BIASES.get(word) == position for word, position in constant.readers)
        if not constant.readers or not (is_weight or is_bias):
            continue
        chain, fits = _store(model, constant, matches.get(constant.index), masks, plan, kinds)
        decoders += chain
        if constant.index in matches:
            name, used = matches[constant.index].parameter, {kind(model, op) for op in chain}
            narrow = "DEQUANTIZE" in used or constant.values.dtype.itemsize < 4
            placed.setdefault(name, Placement(name, "DENSIFY" in used, narrow, fits))
    for found in matches.values():
        placed.setdefault(found.parameter, Placement(found.parameter, False, plan.scheme is None))
    model.subgraphs[0].operators[:0] = decoders
    return placed


def _store(
    model: Any,
    constant: Constant,
    found: Match | None,
    masks: Mapping[str, np.ndarray],
    plan: Plan,
    kinds: Set[str],
) -> tuple[list[Any], bool]:
    """Rewrite one constant; the decoder operators that restore it, and whether its integers mean what it held."""
    tensor, shape = model.subgraphs[0].tensors[constant.index], constant.values.shape
    name = found.parameter if found else ""
    mask = constant.values != 0
    if found and name in masks:
        mask |= found.lay_out(masks[name], shape)
    values, scales, axis, fits = _narrowed(constant, found, mask, plan, kinds)
    if values.dtype not in PLAIN or (values.dtype == np.int8 and scales is None and not kinds <= SPARSE_INT8):
        return [], fits
    is_narrow = values.dtype != constant.values.dtype
    layout = None
    if kinds and values.size and not plan.is_dense:
        mask = mask if found and name in masks else values != 0
        both = not is_narrow or (kinds <= BOTH_DECODERS and not plan.one_decoder)
        item = values.itemsize if both else constant.values.itemsize
        layout, size = sparse.smallest(mask, item, block=plan.block)
        if size + sparse.OVERHEAD_BYTES >= values.nbytes and not (plan.forced and name in masks):
            layout = None
        elif not both:
            values, scales, is_narrow = constant.values, None, False
    if layout is None and not is_narrow:
        return [], fits
    type_name = PLAIN[values.dtype]
    if layout is not None:
        stored = sparse.store(values, mask, layout)
        source = add_tensor(model, tensor, type_name, stored.values)
        model.subgraphs[0].tensors[source].sparsity = sparse.parameters(stored, shape)
    else:
        source = add_tensor(model, tensor, type_name, values)
    chain, last = [source], source
    if layout is not None and is_narrow:
        last = add_tensor(model, tensor, type_name, None)
        chain.append(last)
    for index in chain:
        model.subgraphs[0].tensors[index].quantization = (
            _quantization(scales, axis) if scales is not None else tensor.quantization
        )
    model.subgraphs[0].tensors[source].name = tensor.name
    tensor.name, tensor.buffer = None, 0
    operators = []
    if layout is not None:
        operators.append(operator(model, "DENSIFY", [source], [last if len(chain) > 1 else constant.index]))
    if is_narrow:
        version = 3 if scales is None else 5
        operators.append(operator(model, "DEQUANTIZE", [last], [constant.index], version=version))
    return operators, fits


def _narrowed(
    constant: Constant, found: Match | None, mask: np.ndarray, plan: Plan, kinds: Set[str]
) -> tuple[np.ndarray, np.ndarray | None, int, bool]:
    """The values in the scheme's number type, with scales along an axis where they are integers; whether these fit."""
    name = found.parameter if found else ""
    values = constant.values
    if values.dtype != np.float32 or plan.scheme is None:
        return values, None, 0, True
    if plan.scheme == "fp16":
        fits = float(np.abs(values).max(initial=0.0)) < _LARGEST_FLOAT16 and (name in plan.quantized or not kinds)
        return values.astype(np.float16) if fits and values.size > 1 else values, None, 0, True
    # Full int8 comes here with what the quantizer of activations left float: embeddings become weight-only int8.
    axes = {WEIGHTS[kind][1] % values.ndim for kind in kinds}
    if name not in plan.quantized or len(axes) != 1:
        return values, None, 0, True
    axis = axes.pop()
    along = [-1 if a == axis else 1 for a in range(values.ndim)]
    if found is not None and name in plan.levels:
        known = laid_out(plan.levels[name], lambda array: found.lay_out(array, values.shape), values, mask)
        if known is not None and known.scale is not None and known.scale.size in (1, known.scale.shape[axis]):
            return known.q, np.repeat(known.scale, values.shape[axis] // known.scale.size), axis, True
    q, scales = quantize_int8(values, axis)
    if means(Levels(q, scales.reshape(along)), values):
        return q, scales, axis, True
    return values, None, 0, False


def _quantization(scales: np.ndarray, axis: int) -> Any:
    parameters = schema().QuantizationParametersT()
    parameters.scale = scales.astype(np.float32)
    parameters.zeroPoint = np.zeros(len(scales), np.int64)
    parameters.quantizedDimension = axis
    return parameters
