"""Core AI's compressed weights, decoded as their public definitions say (the operators' docstrings in coreai-core).

build_sparse_with_bitmask         values and a mask, a bit an entry
sparse_with_bitmask_to_dense      the values where the mask has a bit, zero elsewhere
lut_to_dense, …_sparse…           palette[block of the entry, index]
blockwise_shift_scale             scale · (q − offset1) + offset2, one of each a block
dequantize                        the same along one axis
transpose, reshape, cast, …       the same weight seen otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from idp_deploy.errors import FileError
from idp_deploy.formats.coreai.read.program import Constant, Op
from idp_deploy.formats.decoded import Weight as Decoded

Weight = Decoded[Constant]
_DEEPEST = 32  # operators between a constant and the weight it becomes


class Weights:
    """Every constant and what is decoded from constants alone, by number, decoded when asked for."""

    def __init__(self, ops: tuple[Op, ...]) -> None:
        self._makers: dict[int, Op] = {}
        depths: dict[int, int] = {}
        for op in ops:
            depth = 1 + max((depths.get(number, _DEEPEST) for number in op.operands), default=0)
            decoded = op.kind in DECODERS and op.operands and depth <= _DEEPEST and len(op.results) == 1
            if op.constant is not None or decoded:
                self._makers[op.results[0].id] = op
                depths[op.results[0].id] = depth

    def __contains__(self, number: int) -> bool:
        return number in self._makers

    def maker(self, number: int) -> Op:
        """The operator that holds or decodes it."""
        return self._makers[number]

    def source(self, number: int) -> int:
        """The number that a chain of views (transpose, reshape, …) begins with."""
        while self._makers[number].kind in VIEWS:
            number = self._makers[number].operands[0]
        return number

    def decode(self, number: int) -> Weight:
        """The weight of this number.

        Raises:
            FileError: its parts do not fit together.
        """
        return self._decode(number, {})

    def _decode(self, number: int, known: dict[int, Weight]) -> Weight:
        if number not in known:
            op = self._makers[number]
            if op.constant is not None:
                known[number] = Weight(op.constant.values, parts=(op.constant,), bits=op.constant.bits)
            else:
                known[number] = _decoded(op, [self._decode(operand, known) for operand in op.operands])
        return known[number]


def _decoded(op: Op, operands: list[Weight]) -> Weight:
    try:
        found = DECODERS[op.kind](*operands)
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise FileError(f"{op.kind} is inconsistent: {error}", way_out="export the package again") from error
    shape = op.results[0].shape
    if shape is not None and -1 not in shape and found.values.shape != shape:
        raise FileError(f"{op.kind} decodes to {found.values.shape}, the program says {shape}")
    return found


def _parts(*operands: Weight) -> tuple[Constant, ...]:
    return tuple(part for operand in operands for part in operand.parts)


def _sparse(values: Weight, mask: Weight) -> Weight:
    kept = mask.values != 0
    if int(kept.sum()) != values.values.size:
        raise ValueError(f"its mask keeps {int(kept.sum())} entries, of which {values.values.size} are stored")

    def spread(stored: np.ndarray) -> np.ndarray:
        dense = np.zeros(kept.shape, stored.dtype)
        dense[kept] = stored.reshape(-1)
        return dense

    stored = None if values.stored is None else spread(values.stored)
    return replace(values, values=spread(values.values), mask=kept, stored=stored, parts=_parts(values, mask))


def _palette(indices: Weight, lut: Weight, axis: Weight | None = None) -> Weight:
    """indices (a, b, …), lut (blocks of a, blocks of b, …, entries, 1) → values (a, b, …)."""
    table, places = lut.values, indices.values.astype(np.int64)
    if table.ndim != places.ndim + 2 or table.shape[-1] != 1:
        raise ValueError(f"a palette of shape {table.shape} for indices of shape {places.shape}")
    blocks = table.shape[:-2]
    where = tuple(
        (np.arange(extent) // (extent // count)).reshape([-1 if axis == at else 1 for at in range(places.ndim)])
        for axis, (extent, count) in enumerate(zip(places.shape, blocks, strict=True))
    )
    values = table[(*where, places, np.zeros_like(places))] if places.ndim else table[places, 0]
    return Weight(values, indices.mask, parts=_parts(indices, lut), bits=indices.bits, palette=True)


def _palette_of_sparse(indices: Weight, lut: Weight, axis: Weight | None = None) -> Weight:
    found = _palette(indices, lut)
    if indices.mask is None:
        raise ValueError("its indices are not sparse")
    return replace(found, values=np.where(indices.mask, found.values, found.values.dtype.type(0)))


def _scaled(data: Weight, scale: Weight, shift: Weight, bias: Weight) -> Weight:
    """data (a, b, …) with scale, shift and bias (blocks of a, blocks of b, …)."""
    stored = data.values

    def along(blocks: np.ndarray) -> np.ndarray:
        for axis, extent in enumerate(stored.shape):
            if blocks.shape[axis] not in (1, extent):
                if extent % blocks.shape[axis]:
                    raise ValueError(f"{blocks.shape[axis]} blocks of {extent} entries")
                blocks = np.repeat(blocks, extent // blocks.shape[axis], axis)
        return blocks

    kind = bias.values.dtype
    offset, added = along(shift.values), along(bias.values)
    levels = stored.astype(np.float32) - offset.astype(np.float32)
    values = (along(scale.values).astype(np.float32) * levels + added.astype(np.float32)).astype(kind)
    integers = stored if stored.dtype.kind in "iu" and not data.palette and not np.any(bias.values) else None
    return Weight(values, data.mask, integers, offset, _parts(data, scale), data.bits, data.palette)


def _along_axis(data: Weight, scale: Weight, shift: Weight, bias: Weight, axis: Weight) -> Weight:
    at = int(axis.values.reshape(-1)[0]) % data.values.ndim

    def placed(one: Weight) -> Weight:
        shape = [-1 if place == at else 1 for place in range(data.values.ndim)]
        return replace(one, values=one.values.reshape(shape))

    return _scaled(data, placed(scale), placed(shift), placed(bias))


def _seen(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., Weight]:
    def view(weight: Weight, how: Weight) -> Weight:
        return replace(weight, values=change(weight.values, how.values), mask=None, stored=None, offset=None)

    return view


def _cast(weight: Weight, *_: Weight) -> Weight:
    return weight


VIEWS: Mapping[str, Callable[..., Weight]] = {
    "transpose": _seen(lambda values, order: values.transpose(order.astype(int))),
    "reshape": _seen(lambda values, shape: values.reshape(shape.astype(int))),
    "expand_dims": _seen(lambda values, axes: np.expand_dims(values, tuple(axes.reshape(-1).astype(int)))),
    "shrink_dims": _seen(lambda values, axes: np.squeeze(values, tuple(axes.reshape(-1).astype(int)))),
    "cast": _cast,
}
DECODERS: Mapping[str, Callable[..., Weight]] = {
    **VIEWS,
    "build_sparse_with_bitmask": _sparse,
    "sparse_with_bitmask_to_dense": lambda sparse: sparse,
    "lut_to_dense": _palette,
    "lut_to_sparse_with_bitmask": _palette_of_sparse,
    "blockwise_shift_scale": _scaled,
    "dequantize": _along_axis,
}
