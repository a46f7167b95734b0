"""Where a Core ML program's weights become sparse: the last pass over the MIL program, after every other has run.

Placed last because a compressed weight stops coremltools' own folding: a transposed or scaled constant would stay an
operator of the shipped graph. Each constant is found again among the model's parameters by its numbers, and the
parameter's mask, not the constant's zeros, says what is stored. Per tensor the smallest row of the table wins:

    dense                 const, one blob record
    sparse                constexpr_sparse_to_dense: packed mask + kept values (iOS 16)
    int8, sparse+int8     constexpr_blockwise_shift_scale, constexpr_sparse_blockwise_shift_scale (iOS 18)
    lut4, sparse+lut4     constexpr_lut_to_dense, constexpr_lut_to_sparse (iOS 18)

Vectors stay dense: coremltools leaves them so for a fault of the runtime (rank ≤ 1 in its `need_compress_const`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from idp_deploy.formats.coreml.write.blob import INLINE_BYTES
from idp_deploy.quantizers import palettize, quantize_int8

_FEWEST = 10  # entries below which nothing can be saved
_OPERATOR_BYTES = 150  # what one more constexpr operator takes in the program


@dataclass(eq=False)
class Storage:
    """Steers the pass and collects what it did.

    Afterwards `placed` maps parameter names to tensor names in the file, and `encodings` tensor names to the row of
    the table that was chosen.
    """

    weights: Mapping[str, np.ndarray]  # parameters and buffers by name, float32
    masks: Mapping[str, np.ndarray]  # True = kept
    gates: Mapping[str, int] = field(default_factory=dict)  # matrices stacked in a recurrent weight
    encoding: str = "auto"  # auto | dense | sparse
    scheme: str = ""  # "" | int8 | lut4
    covered: frozenset[str] = frozenset()  # parameters that the scheme is for
    one_bit_masks: bool = False  # the iOS 18 form of the sparse operator
    placed: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)


def store(program: Any, storage: Storage) -> None:
    """Replace the float constants of a MIL program by their smallest encoding, in place."""
    by_content: dict[str, _Match] = {}
    taken = {v.name for function in program.functions.values() for op in function.operations for v in op.outputs}
    for op in list(_constants(program)):
        values, tensor = op.outputs[0].val, op.outputs[0].name
        match = _find(values, tensor, storage)
        if match.names:
            part = f"_{match.gates[0]}" if len(match.gates) == 1 < match.of else ""
            tensor = _rename(op, match.names[0] + part, taken)
            storage.placed.setdefault(match.names[0], tensor)
            by_content[tensor] = match
        if values.ndim < 2:
            storage.encodings[tensor] = "dense"
            continue
        mask = _kept(values, match, storage)
        choice = _smallest(values, mask, match, _output_axis(op), storage)
        storage.encodings[tensor] = choice
        if choice != "dense":
            _replace(op, values, mask, choice, storage)
    for tensor, match in by_content.items():  # tied weights: stored once, found under every name
        for name in match.names:
            storage.placed.setdefault(name, tensor)


def _rename(op: Any, parameter: str, taken: set[str]) -> str:
    """Give a constant its parameter's name, where that is free; returns the name it has now."""
    name = re.sub(r"\W", "_", parameter)
    name = f"w{name}" if name[0].isdigit() else name  # MIL names begin with a letter
    if name not in taken:
        taken.add(name)
        op.name = op.outputs[0].name = name
    return str(op.outputs[0].name)


@dataclass(frozen=True)
class _Match:
    names: tuple[str, ...] = ()  # parameters that hold these numbers, the likeliest first
    transposed: bool = False
    gates: tuple[int, ...] = ()  # of a recurrent weight, those that are here, in this order
    of: int = 1  # gates it has

    def lay_out(self, parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        chosen = _gates(parameter, self.of, self.gates) if self.gates else parameter
        return (chosen.T if self.transposed else chosen).reshape(shape)


def _constants(program: Any) -> Iterator[Any]:
    for function in program.functions.values():
        blocks = [function]
        while blocks:
            block = blocks.pop()
            for op in block.operations:
                blocks.extend(op.blocks)
                if op.op_type != "const" or op.outputs[0] in block.outputs or not op.outputs[0].child_ops:
                    continue
                value = op.outputs[0].val
                if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32) and value.size >= _FEWEST:
                    yield op


def _find(values: np.ndarray, tensor: str, storage: Storage) -> _Match:
    """The parameters whose numbers these are, rounded to the constant's type and perhaps transposed."""
    for transposed in (False, True):
        names = [
            name
            for name, weight in storage.weights.items()
            if weight.size == values.size
            and (not transposed or (weight.ndim == values.ndim == 2 and weight.T.shape == values.shape))
            and _agree((weight.T if transposed else weight).reshape(-1), values.reshape(-1))
        ]
        if names:
            names.sort(key=lambda name: (name.replace(".", "_") not in tensor, name in storage.placed))
            return _Match(tuple(names), transposed)
    for name, count in storage.gates.items():
        for gates in _orders(count, values.size, storage.weights[name].size):
            found = _gates(storage.weights[name], count, gates)
            if found.shape == values.shape and _agree(found.reshape(-1), values.reshape(-1)):
                return _Match((name,), False, gates, count)
    return _Match()


def _orders(count: int, size: int, whole: int) -> Iterator[tuple[int, ...]]:
    """Gates that may make up a constant of `size` entries: all in another order, as `lstm` has them, or one by one."""
    if size == whole:
        yield from permutations(range(count))
    elif size * count == whole:
        yield from ((gate,) for gate in range(count))


def _gates(weight: np.ndarray, count: int, gates: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.split(weight, count)[gate] for gate in gates])


def _agree(weight: np.ndarray, values: np.ndarray) -> bool:
    """Equal up to rounding; a few entries decide for nearly every pair that is not."""
    rtol, atol = (2.0**-10, 2.0**-24) if values.dtype == np.float16 else (1e-6, 0.0)
    parts = (slice(None, 256), slice(None))
    return all(np.allclose(values[part], weight[part], rtol=rtol, atol=atol) for part in parts)


def _kept(values: np.ndarray, match: _Match, storage: Storage) -> np.ndarray:
    """What is stored: by the parameter's mask, where it has one; also a kept entry that float16 rounds to zero."""
    name = next((n for n in match.names if n in storage.masks), None)
    return values != 0 if name is None else match.lay_out(storage.masks[name], values.shape)


def _output_axis(op: Any) -> int:
    """The axis of the first consumer's output channels, along which int8 scales run."""
    user = op.outputs[0].child_ops[0]
    if user.op_type == "conv_transpose":
        return 1
    if user.op_type == "matmul" and user.inputs["y"] is op.outputs[0]:
        return op.outputs[0].rank - (2 if user.transpose_y.val else 1)
    return 0


def _smallest(values: np.ndarray, mask: np.ndarray, match: _Match, axis: int, storage: Storage) -> str:
    """The row of the table with the fewest bytes, among those the options allow."""
    entries, kept, width, channels = values.size, int(mask.sum()), values.dtype.itemsize, values.shape[axis]
    if not kept:
        return "dense"  # an empty list of kept values is not something the runtime accepts
    bits = (entries + 7) // 8
    sparse = {"sparse": _record(bits) + _record(kept, width) + _OPERATOR_BYTES}
    # A dense row shows a kept zero as pruned: allowed only where the numbers alone tell what is kept.
    dense = {"dense": _record(entries, width)} if np.count_nonzero(values) == kept else {}
    if storage.scheme and storage.covered.intersection(match.names):
        if storage.scheme == "int8":
            scales = _record(channels, width) + _OPERATOR_BYTES
            sparse["sparse+int8"] = _record(bits) + _record(kept) + scales + _OPERATOR_BYTES
            if np.count_nonzero(quantize_int8(values, axis)[0]) == kept:
                dense["int8"] = _record(entries) + scales
        else:
            table = _record(16, width) + _OPERATOR_BYTES
            sparse["sparse+lut4"] = _record(bits) + _record((kept + 1) // 2) + table + _OPERATOR_BYTES
            dense["lut4"] = _record((entries + 1) // 2) + table
    if storage.encoding == "dense":
        costs = dense or {"dense": 0}
    elif storage.encoding == "sparse" and kept < entries:
        costs = sparse
    else:
        costs = dense | sparse
    return min(costs, key=lambda row: costs[row])


def _record(entries: int, width: int = 1) -> int:
    """Bytes of a tensor: short ones lie in the program, others in the blob with a header of 64, padded to 64."""
    size = entries * width
    return size if size <= INLINE_BYTES else 64 + (size + 63) // 64 * 64


def _replace(op: Any, values: np.ndarray, mask: np.ndarray, choice: str, storage: Storage) -> None:
    old, block = op.outputs[0], op.enclosing_block
    with block:
        new = _compressed(op, values, mask, choice, storage)
    block.replace_uses_of_var_after_op(anchor_op=new.op, old_var=old, new_var=new, force_replace=True)
    block.remove_ops([op])
    new.name = new.op.name = old.name


def _compressed(op: Any, values: np.ndarray, mask: np.ndarray, choice: str, storage: Storage) -> Any:
    """The constexpr operators of one row, before `op`; returns the variable that takes the constant's place."""
    from coremltools.converters.mil.mil import Builder, types

    is_sparse = choice.startswith("sparse")
    kept = mask.reshape(-1)
    bits: Any = mask.astype(types.np_uint1_dtype)
    stored: Any = values.reshape(-1)[kept]
    if choice.endswith("int8"):
        axis = _output_axis(op)
        q, scale = quantize_int8(values, axis)
        scales = np.expand_dims(scale, tuple(a for a in range(values.ndim) if a != axis)).astype(values.dtype)
        if not is_sparse:
            return Builder.constexpr_blockwise_shift_scale(data=q, scale=scales, before_op=op)
        bits, stored = Builder.constexpr_sparse_blockwise_shift_scale(
            data_mask=bits, nonzero_data=q.reshape(-1)[kept], scale=scales, before_op=op
        )
    elif choice.endswith("lut4"):
        indices, lut = palettize(values, mask, bits=4)
        table = lut.astype(values.dtype).reshape((1,) * values.ndim + (16, 1))
        nibbles = indices.astype(types.np_uint4_dtype)
        if not is_sparse:
            return Builder.constexpr_lut_to_dense(indices=nibbles, lut=table, before_op=op)
        bits, stored = Builder.constexpr_lut_to_sparse(
            indices_mask=bits, indices_nonzero_data=nibbles.reshape(-1)[kept], lut=table, before_op=op
        )
    if storage.one_bit_masks:
        return Builder.constexpr_sparse_to_dense(nonzero_data=stored, mask=bits, before_op=op)
    return Builder.constexpr_sparse_to_dense(
        nonzero_data=stored,
        mask=np.packbits(kept, bitorder="little"),
        shape=np.array(values.shape, np.uint32),
        before_op=op,
    )
