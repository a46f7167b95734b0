"""micro: weights behind `TFLM_DECODE`, the operator by which TensorFlow Lite Micro unpacks weights itself.

A weight becomes two byte tensors: a bit an entry, the first in the highest bit of a byte, 1 where the entry is kept;
and 16 bytes of header (2 = pruned, version 1) before the kept entries, in order. The operator stands right before the
one that reads the weight, and what it unpacks lies in the arena for that long: memory grows by the largest weight.
So a large one is cut into blocks of output channels, each behind a decoder of its own, and the results joined; not
that of a convolution in groups.
Format: https://github.com/tensorflow/tflite-micro, tensorflow/lite/micro/kernels/decode_state_prune.cc
"""

from __future__ import annotations

from typing import Any

import numpy as np

from idp_deploy.errors import UsageError
from idp_deploy.formats.tflite.write.graph import add_tensor, constants, kind, operator, schema

NAME = "TFLM_DECODE"
_BLOCK_COST = 600  # bytes that one block more weighs: some 460 of arena for operators and tensors, and 500 of file
_MOST_BLOCKS = 64
_HEADER = bytes([2, 1, 0, 0, 1]) + bytes(11)
_OVERHEAD = 400  # flatbuffer tables of an operator, two tensors and their buffers
_CUT = frozenset({"CONV_2D", "FULLY_CONNECTED"})  # output channels first in the weight, last in the result
_MOST_JOINED = 10  # kMaxInputNum of the runtime's concatenation
_SCHEMES = (None, "int8")


def refuse_micro(scheme: str | None) -> None:
    """UsageError where the runtime has no kernels for what the scheme mixes."""
    if scheme not in _SCHEMES:
        raise UsageError(
            f"--encoding tflm takes float32 and int8 models, not the scheme {scheme!r}",
            way_out="quantize --scheme int8: microcontrollers compute integers",
        )


def behind_decoders(model: Any, block_bytes: int = 0) -> tuple[str, ...]:
    """Rewrite the main subgraph's weights in place where that takes fewer bytes; their names.

    Args:
        block_bytes: of a weight that is unpacked at once, at most; 0 for those that make the arena smallest.
    """
    graph = model.subgraphs[0]
    found = {c.index: c.values for c in constants(model, floats_only=False)}
    weights = {id(op): found[at] for op in graph.operators if (at := _packable(model, op, found)) is not None}
    parted = [
        (values, _is_cut(model, op, values)) for op in graph.operators if (values := weights.get(id(op))) is not None
    ]
    block = block_bytes or _least_block(model, parted)
    packed: list[str] = []
    operators: list[Any] = []
    for op in graph.operators:
        if id(op) not in weights:
            operators.append(op)
            continue
        packed.append(_text(graph.tensors[int(op.inputs[1])].name))
        pieces = _pieces(model, op, weights[id(op)], block)
        operators += [made for piece, part in pieces for made in _decoded(model, piece, part)]
        operators += _joined(model, op, [piece for piece, _ in pieces])
    graph.operators = operators
    return tuple(dict.fromkeys(packed))


def _packable(model: Any, op: Any, found: dict[int, np.ndarray]) -> int | None:
    """The tensor of an operator's weight, where decoding it saves bytes."""
    index = int(op.inputs[1]) if len(op.inputs) > 1 else -1
    known = kind(model, op) in (*_CUT, "DEPTHWISE_CONV_2D") and index in found
    return index if known and _pays(found[index]) else None


def _least_block(model: Any, weights: list[tuple[np.ndarray, bool]]) -> int:
    """The block with which the arena is smallest: it holds the largest of them, or the widest activations, or what is
    not to be cut."""
    graph = model.subgraphs[0]
    # activations are floats or integers as weights are
    entry = max((values.itemsize for values, _ in weights), default=1)
    constant = {c.index for c in constants(model, floats_only=False)}
    entries = {at: np.prod(tensor.shape, dtype=int) for at, tensor in enumerate(graph.tensors) if at not in constant}
    live = [sum(entries.get(int(t), 0) for t in [*op.inputs, *op.outputs]) for op in graph.operators]
    widest = entry * max(live, default=0)
    whole = max((values.nbytes for values, is_cut in weights if not is_cut), default=0)
    sizes = [values.nbytes for values, is_cut in weights if is_cut]
    choices = {-(-size // count) for size in sizes for count in range(1, _MOST_BLOCKS + 1)}

    def weight(block: int) -> tuple[int, int]:
        return max(block, widest, whole) + _BLOCK_COST * sum(-(-size // block) for size in sizes), -block

    return min(choices, key=weight, default=1)


def _is_cut(model: Any, op: Any, values: np.ndarray) -> bool:
    """Whether each output channel reads all input channels: the runtime works out the groups of a convolution from the
    channels it is given, so that a part of one would be read as other groups."""
    given = model.subgraphs[0].tensors[int(op.inputs[0])].shape
    return kind(model, op) in _CUT and (kind(model, op) != "CONV_2D" or values.shape[-1] == given[-1])


def _pays(values: np.ndarray) -> bool:
    kept = int(np.count_nonzero(values)) * values.itemsize
    return (values.size + 7) // 8 + len(_HEADER) + kept + _OVERHEAD < values.nbytes


def _pieces(model: Any, op: Any, values: np.ndarray, block_bytes: int) -> list[tuple[Any, np.ndarray]]:
    """The operator as it is, or as several of which each gives an equal part of the output channels."""
    out = values.shape[0]
    count = min(out, -(-values.nbytes // block_bytes)) if _is_cut(model, op, values) else 1
    if count == 1 or int(op.outputs[0]) in [int(t) for t in model.subgraphs[0].outputs]:
        return [(op, values)]
    tensors = model.subgraphs[0].tensors
    result = tensors[int(op.outputs[0])]
    pieces = []
    start = 0
    for n, part in enumerate(np.array_split(values, count)):
        rows = slice(start, start + len(part))
        start += len(part)
        piece = schema().OperatorT()
        piece.opcodeIndex, piece.builtinOptionsType = op.opcodeIndex, op.builtinOptionsType
        piece.builtinOptions = op.builtinOptions
        made = _like(model, result, [*result.shape[:-1], len(part)])
        tensors[made].name = f"{_text(result.name)}#{n}"
        inputs = [int(op.inputs[0]), _part(model, int(op.inputs[1]), part, rows, n)]
        if len(op.inputs) > 2 and int(op.inputs[2]) >= 0:
            bias = next(c.values for c in constants(model, floats_only=False) if c.index == int(op.inputs[2]))
            inputs.append(_part(model, int(op.inputs[2]), bias[rows], rows, n))
        piece.inputs, piece.outputs = inputs, [made]
        pieces.append((piece, part))
    return pieces


def _part(model: Any, index: int, values: np.ndarray, rows: slice, number: int) -> int:
    """A constant tensor with some output channels of another, and their scales."""
    whole = model.subgraphs[0].tensors[index]
    made = add_tensor(model, whole, "INT8", values)
    tensor = model.subgraphs[0].tensors[made]
    tensor.type, tensor.shape, tensor.shapeSignature = whole.type, list(values.shape), None
    tensor.name, tensor.quantization = f"{_text(whole.name)}#{number}", whole.quantization
    if whole.quantization is not None and whole.quantization.scale is not None and len(whole.quantization.scale) > 1:
        quantization = schema().QuantizationParametersT()
        quantization.scale = np.array(whole.quantization.scale, np.float32)[rows]
        quantization.zeroPoint = np.array(whole.quantization.zeroPoint, np.int64)[rows]
        quantization.quantizedDimension = whole.quantization.quantizedDimension
        tensor.quantization = quantization
    return made


def _decoded(model: Any, op: Any, values: np.ndarray) -> list[Any]:
    """A decoder and the operator, which now reads what it unpacks."""
    tensors = model.subgraphs[0].tensors
    weight = tensors[int(op.inputs[1])]
    kept = values != 0
    bits = add_tensor(model, weight, "UINT8", np.packbits(kept.reshape(-1)))
    rest = add_tensor(model, weight, "UINT8", np.frombuffer(_HEADER + values[kept].tobytes(), np.uint8))
    for index, suffix in ((bits, ""), (rest, "#values")):
        tensor = tensors[index]
        tensor.shape = [len(model.buffers[tensor.buffer].data)]
        tensor.shapeSignature, tensor.name = None, f"{_text(weight.name)}{suffix}"
    dense = add_tensor(model, weight, "UINT8", None)
    tensors[dense].type, tensors[dense].quantization = weight.type, weight.quantization
    tensors[dense].name = f"{_text(weight.name)}#decoded"
    op.inputs = [int(op.inputs[0]), dense, *(int(t) for t in op.inputs[2:])]
    decode = schema().OperatorT()
    decode.opcodeIndex = _custom(model)
    decode.inputs, decode.outputs = [bits, rest], [dense]
    return [decode, op]


def _joined(model: Any, op: Any, pieces: list[Any]) -> list[Any]:
    """Concatenations of at most as many results as the runtime's kernel takes, then of those."""
    if pieces == [op]:
        return []
    tensors, last = model.subgraphs[0].tensors, int(op.outputs[0])
    results, made = [int(piece.outputs[0]) for piece in pieces], []
    while len(results) > 1:
        group, rest = results[:_MOST_JOINED], results[_MOST_JOINED:]
        result = _sum_of(model, tensors[last], group) if rest else last
        join = operator(model, "CONCATENATION", group, [result])
        join.builtinOptions.axis = len(tensors[last].shape) - 1
        made.append(join)
        results = [result, *rest]
    return made


def _sum_of(model: Any, like: Any, group: list[int]) -> int:
    """A tensor for some results side by side."""
    tensors = model.subgraphs[0].tensors
    made = _like(model, like, [*like.shape[:-1], sum(int(tensors[t].shape[-1]) for t in group)])
    tensors[made].name = f"{_text(tensors[group[0]].name)}+{len(group) - 1}"
    return made


def _like(model: Any, like: Any, shape: list[Any]) -> int:
    """An activation of another's type and scale."""
    made = add_tensor(model, like, "INT8", None)
    tensor = model.subgraphs[0].tensors[made]
    tensor.type, tensor.quantization = like.type, like.quantization
    tensor.shape, tensor.shapeSignature = [int(n) for n in shape], None
    return made


def _custom(model: Any) -> int:
    for index, code in enumerate(model.operatorCodes):
        if code.customCode in (NAME, NAME.encode()):
            return index
    code = schema().OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.CUSTOM
    code.customCode, code.version = NAME, 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _text(name: str | bytes | None) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""
