"""memory: a copy where LiteRT's own kernels would write over what is still to be read.

They compute a sum, a product or a softmax in the memory of what it is made of, where nothing else reads that, and let
a reshape share the memory of its source. Whether a shared piece of memory is read elsewhere they ask of the tensor at
hand and of the first one in that memory, not of those in between: y = a + b in the memory of a, y.reshape(…) · c in the
same, and y is gone, although it is read once more (findings/litert_reshaped_sum.sh).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from idp_deploy.formats.tflite.write.graph import add_tensor, kind, operator

_SHARING = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST"}
# how many of its first inputs an operator may write over, as LiteRT 2.3.0's kernels do
_WRITING = {"ADD": 2, "SUB": 2, "MUL": 2, "DIV": 2, "SOFTMAX": 1, "DYNAMIC_UPDATE_SLICE": 1}
_NEVER = 1 << 31  # an output is read after every operator


def keep_what_is_read(model: Any) -> None:
    """Give, in place, what is written over too early a copy of its own: a transposition that leaves the axes."""
    for place in range(len(model.subgraphs)):
        _in_one(model, place)


def _in_one(model: Any, place: int) -> None:
    graph = model.subgraphs[place]
    inputs, outputs = [int(t) for t in graph.inputs], [int(t) for t in graph.outputs]
    readers: dict[int, list[int]] = {}
    for position, op in enumerate(graph.operators):
        for t in op.inputs:
            readers.setdefault(int(t), []).append(position)
    for t in (*inputs, *outputs):
        readers.setdefault(t, []).append(_NEVER)
    moving = {int(t) for op in graph.operators for t in op.outputs}
    first: dict[int, int] = {}  # tensor → the one whose memory it has
    operators = []
    for position, op in enumerate(graph.operators):
        name, made = kind(model, op), [int(t) for t in op.outputs]
        if name in _SHARING and int(op.inputs[0]) in moving and made[0] not in outputs:
            first[made[0]] = first.get(int(op.inputs[0]), int(op.inputs[0]))
        written = [int(t) for t in op.inputs[: _WRITING.get(name, 0)]] if not set(made) & set(outputs) else []
        for t in written:
            if t not in moving or len(readers[t]) > 1 or _size(graph.tensors[t]) != _size(graph.tensors[made[0]]):
                continue
            memory = first.get(t, t)
            if len(readers[memory]) > 1:
                break  # which LiteRT sees
            others = [q for q in (memory, *(q for q, m in first.items() if m == memory)) if q != t]
            if any(reader > position for q in others for reader in readers.get(q, ())):
                copy = _copy(model, place, t)
                operators.append(operator(model, "TRANSPOSE", [t, _axes(model, place, t)], [copy]))
                op.inputs = [copy if int(x) == t else int(x) for x in op.inputs]
                memory, readers[copy] = copy, [position]
            first[made[0]] = memory
            break
        operators.append(op)
    graph.operators = operators


def _size(tensor: Any) -> tuple[int, int]:
    return tensor.type, int(np.prod([] if tensor.shape is None else tensor.shape))


def _copy(model: Any, place: int, index: int) -> int:
    tensors = model.subgraphs[place].tensors
    copy = add_tensor(model, tensors[index], "FLOAT32", None, place=place)
    tensors[copy].type, tensors[copy].quantization = tensors[index].type, tensors[index].quantization
    return copy


def _axes(model: Any, place: int, index: int) -> int:
    """A constant of all axes in their order."""
    tensors = model.subgraphs[place].tensors
    order = np.arange(len(tensors[index].shape), dtype=np.int32)
    axes = add_tensor(model, tensors[index], "INT32", order, place=place)
    tensors[axes].shape = tensors[axes].shapeSignature = [order.size]
    return axes
