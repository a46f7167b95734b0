"""How each constant of a finished Core ML program is stored: the row of the table that takes the fewest bytes.

    dense                 const, one blob record
    sparse                constexpr_sparse_to_dense: packed mask + kept values (iOS 16)
    int8, sparse+int8     constexpr_blockwise_shift_scale, constexpr_sparse_blockwise_shift_scale (iOS 18)
    lut4, sparse+lut4     constexpr_lut_to_dense, constexpr_lut_to_sparse (iOS 18)

The program is rewritten after coremltools is done with it, since a compressed weight stops its folding: a transposed or
scaled constant would stay an operator of the shipped graph. The parameter's mask, not the constant's zeros, says what
is stored. Vectors stay dense: coremltools leaves them so for a fault of the runtime (rank ≤ 1 in its
`need_compress_const`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from idp_deploy.flow import Levels
from idp_deploy.formats.coreml.write.blob import INLINE_BYTES, Records, tensor_type, value_of
from idp_deploy.formats.coreml.write.compacting import operations
from idp_deploy.formats.coreml.write.matching import Match, blocks, constants
from idp_deploy.formats.writing import fewest, laid_out, means, nonzero, pruned
from idp_deploy.quantizers import palettize, quantize_int8

_OPERATOR_BYTES = 150  # what one more constexpr operator takes in the program
_UINT32 = 33


@dataclass(frozen=True)
class Plan:
    """What may be used."""

    encoding: str = "auto"  # auto | dense | sparse
    scheme: str = ""  # "" | int8 | lut4
    covered: frozenset[str] = frozenset()  # parameters that the scheme is for
    levels: Mapping[str, Levels] = field(default_factory=dict)  # what `quantize` made of them
    one_bit_masks: bool = False  # the iOS 18 form of the sparse operator


def store(
    spec: Any, blob: bytes, matches: Mapping[str, Match], masks: Mapping[str, np.ndarray], plan: Plan
) -> tuple[Records, dict[str, str], set[str]]:
    """Replace the float constants of a Model message by their smallest encoding, in place.

    Returns:
        (the weight file, with what nothing refers to any more; constant → the row of the table it took; those that
        stay float, since no numbers of the scheme are what they hold)
    """
    records, encodings, unfit = Records(blob), dict[str, str](), set[str]()
    for block in blocks(spec):
        replaced: dict[str, list[Any]] = {}
        for op in constants(block):
            tensor, values = op.outputs[0].name, value_of(op, blob)
            match = matches[tensor]
            kept = match.kept(masks, values)
            left = pruned(values, kept)
            is_covered = left.ndim > 1 and bool(plan.scheme and plan.covered.intersection(match.names))
            narrow = _narrow(left, kept, match, plan) if is_covered else None
            if is_covered and narrow is None:
                unfit.add(tensor)
            choice = _smallest(left, kept, narrow, plan) if left.ndim > 1 else "dense"
            encodings[tensor] = choice
            if choice != "dense":
                replaced[tensor] = _compressed(op, left, kept, choice, narrow, plan, records)
            elif left is not values:
                op.attributes["val"].CopyFrom(records.value(left, str(left.dtype), left.shape))
        _replace(block, replaced)
    return records, encodings, unfit


def _narrow(values: np.ndarray, mask: np.ndarray, match: Match, plan: Plan) -> Levels | None:
    """The integers or the palette that `quantize` chose, else those that the values are; None where they are none."""
    known = next((plan.levels[name] for name in match.names if name in plan.levels), None)
    if known is not None:
        found = laid_out(known, lambda array: match.lay_out(array, values.shape), values, mask)
        if found is not None:
            return found
    if plan.scheme == "int8":
        q, scale = quantize_int8(values, match.axis)
        found = Levels(q, np.expand_dims(scale, tuple(a for a in range(values.ndim) if a != match.axis)))
    else:
        indices, palette = palettize(values, mask, bits=4)
        found = Levels(indices, palette=palette)
    return found if means(found, values) else None


def _smallest(values: np.ndarray, mask: np.ndarray, narrow: Levels | None, plan: Plan) -> str:
    """The row of the table with the fewest bytes, among those the options allow."""
    entries, kept, width = values.size, int(np.count_nonzero(mask)), values.dtype.itemsize
    if not kept:
        return "dense"  # an empty list of kept values is not something the runtime accepts
    bits = (entries + 7) // 8
    sparse = {"sparse": _record(bits) + _record(kept, width) + _OPERATOR_BYTES}
    # A dense row shows a kept zero as pruned: allowed only where the numbers alone tell what is kept.
    dense = {"dense": _record(entries, width)} if np.count_nonzero(nonzero(values)) == kept else {}
    if narrow is not None and narrow.scale is not None:
        scales = _record(narrow.scale.size, width) + _OPERATOR_BYTES
        sparse["sparse+int8"] = _record(bits) + _record(kept) + scales + _OPERATOR_BYTES
        if np.count_nonzero(narrow.q) == kept:
            dense["int8"] = _record(entries) + scales
    elif narrow is not None:
        table = _record(16, width) + _OPERATOR_BYTES
        sparse["sparse+lut4"] = _record(bits) + _record((kept + 1) // 2) + table + _OPERATOR_BYTES
        dense["lut4"] = _record((entries + 1) // 2) + table
    return fewest(dense, sparse, plan.encoding, zeros=kept < entries)


def _record(entries: int, width: int = 1) -> int:
    """Bytes of a tensor: short ones lie in the program, others in the blob with a header of 64, padded to 64."""
    size = entries * width
    return size if size <= INLINE_BYTES else 64 + (size + 63) // 64 * 64


def _replace(block: Any, replaced: Mapping[str, list[Any]]) -> None:
    """Put operators into the places of the constants they restore, here and in the blocks inside."""
    nested = [inner for op in operations(block) for inner in op.blocks]
    for inner in reversed([block, *nested]):  # from the inside: a list that is written anew copies what is in it
        if any(op.type == "const" and op.outputs[0].name in replaced for op in inner.operations):
            new = [
                made for op in inner.operations for made in replaced.get(op.outputs[0].name if op.outputs else "", [op])
            ]
            copies = [type(op).FromString(op.SerializeToString()) for op in new]
            del inner.operations[:]
            inner.operations.extend(copies)


def _compressed(
    op: Any, values: np.ndarray, mask: np.ndarray, choice: str, narrow: Levels | None, plan: Plan, records: Records
) -> list[Any]:
    """The constexpr operators of one row that restore what the constant `op` holds."""
    kind, shape = str(values.dtype), values.shape
    kept = mask.reshape(-1)
    stored: Any = values.reshape(-1)[kept]
    narrow = narrow if choice.endswith(plan.scheme or "float") else None
    halfway: list[Any] = []
    is_sparse = choice.startswith("sparse")
    bits: Any = records.value(kept, "uint1", shape) if plan.one_bit_masks and is_sparse else None
    if narrow is not None and narrow.scale is not None:
        steps = records.value(narrow.scale.astype(values.dtype), kind, narrow.scale.shape)
        if not is_sparse:
            data = records.value(narrow.q, "int8", shape)
            return [_operator("constexpr_blockwise_shift_scale", op, {"data": data, "scale": steps})]
        given = {"data_mask": bits, "nonzero_data": records.value(narrow.q.reshape(-1)[kept], "int8", [stored.size])}
        halfway = [_halfway("constexpr_sparse_blockwise_shift_scale", op, given | {"scale": steps}, stored)]
    elif narrow is not None and narrow.palette is not None:
        table = records.value(narrow.palette.astype(values.dtype), kind, [*[1] * values.ndim, 16, 1])
        if not is_sparse:
            data = records.value(narrow.q, "uint4", shape)
            return [_operator("constexpr_lut_to_dense", op, {"indices": data, "lut": table})]
        nibbles = records.value(narrow.q.reshape(-1)[kept], "uint4", [stored.size])
        given = {"indices_mask": bits, "indices_nonzero_data": nibbles, "lut": table}
        halfway = [_halfway("constexpr_lut_to_sparse", op, given, stored)]
    if halfway:
        names = [output.name for output in halfway[0].outputs]
        return [*halfway, _operator("constexpr_sparse_to_dense", op, {"mask": names[0], "nonzero_data": names[1]})]
    data = records.value(stored, kind, [stored.size])
    if plan.one_bit_masks:
        return [_operator("constexpr_sparse_to_dense", op, {"mask": bits, "nonzero_data": data})]
    packed = np.packbits(kept, bitorder="little")
    made = _operator("constexpr_sparse_to_dense", op, {})
    made.attributes["mask"].CopyFrom(records.value(packed, "uint8", [packed.size]))
    made.attributes["nonzero_data"].CopyFrom(data)
    made.attributes["shape"].type.CopyFrom(tensor_type(_UINT32, [len(shape)]))
    made.attributes["shape"].immediateValue.tensor.bytes.values = np.array(shape, "<u4").tobytes()
    return [made]


def _operator(kind: str, op: Any, inputs: Mapping[str, Any]) -> Any:
    """An operator of `kind` that gives what the constant `op` gave; inputs are Values, or names of them."""
    made = type(op)(type=kind)
    made.outputs.add().CopyFrom(op.outputs[0])
    made.attributes["name"].CopyFrom(op.attributes["name"])
    for role, given in inputs.items():
        binding = made.inputs[role].arguments.add()
        if isinstance(given, str):
            binding.name = given
        else:
            binding.value.CopyFrom(given)
    return made


def _halfway(kind: str, op: Any, inputs: Mapping[str, Any], stored: np.ndarray) -> Any:
    """An operator that gives a mask and the kept values in floating point."""
    made = _operator(kind, op, inputs)
    name = f"{op.outputs[0].name}_kept"
    made.attributes["name"].immediateValue.tensor.strings.values[0] = name
    del made.outputs[:]
    mask = next(inputs[role] for role in inputs if role.endswith("mask"))
    made.outputs.add(name=f"{name}_mask").type.CopyFrom(mask.type)
    float_code = op.outputs[0].type.tensorType.dataType
    made.outputs.add(name=name).type.CopyFrom(tensor_type(float_code, [stored.size]))
    return made
