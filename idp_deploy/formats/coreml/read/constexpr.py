"""Core ML's compressed weights, decoded as their public definitions say (coremltools, iOS 16 and iOS 18 operators).

constexpr_sparse_to_dense                values where the mask has a bit, zero elsewhere
constexpr_lut_to_dense, …_to_sparse      palette[index], for all entries or for the kept ones
constexpr_affine_dequantize              scale · (q − zero point), per tensor or per channel
constexpr_blockwise_shift_scale, sparse… scale · (q − offset), one scale a block
constexpr_cast                           float16 → float32
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from idp_deploy.errors import FileError
from idp_deploy.formats.coreml.read.blob import bits_of, unpack
from idp_deploy.formats.coreml.read.program import Constant, Operation
from idp_deploy.formats.decoded import Weight as Decoded

Weight = Decoded[Constant]


class Weights:
    """Every constant of a block by value name, decoded when asked for."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._makers = {v.name: op for op in operations if op.kind == "const" or is_constexpr(op) for v in op.outputs}

    def __contains__(self, name: str) -> bool:
        return name in self._makers

    def maker(self, name: str) -> Operation:
        """The operator that holds or decodes the constant."""
        return self._makers[name]

    def places(self, name: str) -> frozenset[tuple[int, int]]:
        """Where in the files of weights the parts of a constant lie, which tells what functions share."""
        found: set[tuple[int, int]] = set()
        pending, seen = [name], {name}
        while pending:
            op = self._makers[pending.pop()]
            given = [each for arguments in op.inputs.values() for each in arguments]
            for each in (*given, *op.attributes.values()):
                if isinstance(each, Constant):
                    found |= {(id(each.blob), each.offset)} if each.blob is not None else set()
                elif each in self._makers and each not in seen:
                    seen.add(each)
                    pending.append(each)
        return frozenset(found)

    def decode(self, name: str) -> Weight:
        """The constant called `name`.

        Raises:
            FileError: its parts are missing or do not fit together.
        """
        known: dict[str, Weight] = {}
        pending = [self._makers[name]]
        while pending:
            op = pending[-1]
            needs = [a for arguments in op.inputs.values() for a in arguments if isinstance(a, str) and a not in known]
            makers = [self._makers.get(need) for need in needs]
            if any(maker is None or maker in pending for maker in makers):
                raise FileError(f"{op.kind} ({op.name}) is made from something that is not a constant")
            if makers:
                pending.extend(maker for maker in makers if maker is not None)
                continue
            pending.pop()
            known.update(zip((v.name for v in op.outputs), decode(op, known), strict=False))
        return known[name]


def is_constexpr(op: Operation) -> bool:
    """Whether the operator is evaluated when the model is loaded."""
    return op.kind.startswith("constexpr_")


def decode(op: Operation, known: Mapping[str, Weight]) -> tuple[Weight, ...]:
    """The outputs of one constexpr operator, in the order of its outputs.

    Args:
        known: outputs of earlier constexpr operators by value name.

    Raises:
        FileError: an operator or a combination of parameters that the definitions do not have.
    """
    if op.kind not in _DECODERS:
        raise FileError(f"{op.kind} ({op.name}) is not a known weight compression")
    try:
        arguments = _Arguments(op, known)
        decoded = _DECODERS[op.kind](arguments)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise FileError(f"{op.kind} ({op.name}) is inconsistent: {error}") from error
    for value, weight in zip(op.outputs, decoded, strict=False):
        if -1 not in value.shape and weight.values.shape != value.shape:
            raise FileError(f"{op.kind} ({op.name}) decodes to {weight.values.shape}, the program says {value.shape}")
    return decoded


class _Arguments:
    """A constexpr's parameters, whether written as attributes (iOS 16) or as inputs (iOS 18)."""

    def __init__(self, op: Operation, known: Mapping[str, Weight]) -> None:
        self._op, self._known = op, known
        self.parts: list[Constant] = []

    def weight(self, name: str) -> Weight:
        found = self.find(name)
        if found is None:
            raise KeyError(f"parameter {name!r} is missing")
        return found

    def find(self, name: str) -> Weight | None:
        arguments = self._op.inputs.get(name)
        argument = arguments[0] if arguments else self._op.attributes.get(name)
        if argument is None:
            return None
        if isinstance(argument, str):
            weight = self._known[argument]
            self.parts.extend(weight.parts)
            return weight
        self.parts.append(argument)
        return Weight(argument.values, parts=(argument,), bits=_bits(argument))


def _bits(constant: Constant) -> float:
    return 0.0 if constant.dtype in ("string", "other") else float(bits_of(constant.dtype))


def _unique(parts: list[Constant]) -> tuple[Constant, ...]:
    return tuple({id(part): part for part in parts}.values())


def _scatter(mask: np.ndarray, kept: np.ndarray) -> np.ndarray:
    if int(np.count_nonzero(mask)) != kept.size:
        raise ValueError(f"the mask keeps {int(np.count_nonzero(mask))} entries, {kept.size} are stored")
    dense = np.zeros(mask.shape, kept.dtype)
    dense[mask] = kept.reshape(-1)
    return dense


def _sparse_to_dense(a: _Arguments) -> tuple[Weight, ...]:
    data = a.weight("nonzero_data")
    mask = a.weight("mask")
    if mask.mask is not None:  # the mask comes from a sparse-to-sparse operator
        keep = mask.mask
    elif a.find("shape") is not None:
        shape = tuple(int(n) for n in a.weight("shape").values.reshape(-1))
        entries = int(np.prod(shape, dtype=np.int64))
        keep = unpack(mask.values.tobytes(), "uint1", entries).reshape(shape).astype(bool)
    else:
        keep = mask.values.astype(bool)
    values = _scatter(keep, data.values)
    return (Weight(values, keep, data.stored, data.offset, _unique(a.parts), data.bits, data.palette),)


def _palette(a: _Arguments, indices: np.ndarray, lut: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """palette[index] with palettes of shape (blocks…, entries, vector); block sizes divide the tensor's extents."""
    axis = a.find("vector_axis")
    vector = lut.shape[-1]
    if vector > 1 and axis is None:
        raise ValueError("a palette of vectors needs vector_axis")
    blocks = lut.shape[:-2]
    if len(blocks) != len(shape):
        raise ValueError(f"palette of shape {lut.shape} for indices of shape {shape}")
    grids = np.ix_(*(np.arange(n) // _block_size(n, b) for n, b in zip(shape, blocks, strict=True)))
    looked_up = lut[(*grids, indices.astype(np.int64))]  # (*shape, vector)
    if vector == 1:
        return looked_up[..., 0]
    at = int(axis.values.reshape(-1)[0]) % len(shape) if axis is not None else 0
    moved = np.moveaxis(looked_up, -1, at + 1)
    return moved.reshape(*shape[:at], shape[at] * vector, *shape[at + 1 :])


def _block_size(extent: int, blocks: int) -> int:
    if blocks < 1 or extent % blocks:
        raise ValueError(f"{blocks} blocks do not divide an extent of {extent}")
    return extent // blocks


def _lut_to_dense(a: _Arguments) -> tuple[Weight, ...]:
    lut, indices = a.weight("lut").values, a.weight("indices")
    if a.find("shape") is not None:  # iOS 16: packed indices, one palette
        shape = tuple(int(n) for n in a.weight("shape").values.reshape(-1))
        bits = int(np.log2(lut.size))
        flat = unpack(indices.values.tobytes(), f"uint{bits}", int(np.prod(shape, dtype=np.int64)))
        return (Weight(lut.reshape(-1)[flat].reshape(shape), parts=_unique(a.parts), bits=bits, palette=True),)
    values = _palette(a, indices.values, lut, indices.values.shape)
    return (Weight(values, parts=_unique(a.parts), bits=indices.bits / lut.shape[-1], palette=True),)


def _lut_to_sparse(a: _Arguments) -> tuple[Weight, ...]:
    lut, indices = a.weight("lut").values, a.weight("indices_nonzero_data")
    mask = _mask(a.weight("indices_mask"))
    values = _palette(a, _scatter(mask, indices.values), lut, mask.shape)
    axis = a.find("vector_axis")
    if lut.shape[-1] > 1 and axis is not None:
        mask = np.repeat(mask, lut.shape[-1], axis=int(axis.values.reshape(-1)[0]))
    parts = _unique(a.parts)
    return (
        Weight(mask, mask, parts=parts),
        Weight(values[mask], parts=parts, bits=indices.bits / lut.shape[-1], palette=True),
    )


def _mask(weight: Weight) -> np.ndarray:
    return weight.mask if weight.mask is not None else weight.values.astype(bool)


def _spread(small: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One entry a block → one an entry."""
    for axis, (extent, blocks) in enumerate(zip(shape, small.shape, strict=True)):
        small = np.repeat(small, _block_size(extent, blocks), axis=axis) if blocks != extent else small
    return small


def _shift_scale(a: _Arguments) -> tuple[Weight, ...]:
    data, scale, offset = a.weight("data"), a.weight("scale").values, a.find("offset")
    values, zero = _scaled(data.values, scale, offset)
    integer = data.values if data.values.dtype.kind in "iu" else None
    return (Weight(values, data.mask, integer, zero, _unique(a.parts), data.bits, data.palette),)


def _scaled(data: np.ndarray, scale: np.ndarray, offset: Weight | None) -> tuple[np.ndarray, np.ndarray | None]:
    full = data.astype(np.float32)
    zero = None
    if offset is not None:
        zero = _spread(offset.values, data.shape)
        full = full - zero.astype(np.float32)
    return (full * _spread(scale, data.shape).astype(np.float32)).astype(scale.dtype), zero


def _sparse_shift_scale(a: _Arguments) -> tuple[Weight, ...]:
    mask, data, scale = _mask(a.weight("data_mask")), a.weight("nonzero_data"), a.weight("scale").values
    integers = _scatter(mask, data.values)
    values, zero = _scaled(integers, scale, a.find("offset"))
    parts = _unique(a.parts)
    stored = integers if integers.dtype.kind in "iu" else None
    return (
        Weight(mask, mask, parts=parts),
        Weight(values[mask], None, stored, zero, parts, data.bits, data.palette),
    )


def _affine(a: _Arguments) -> tuple[Weight, ...]:
    data, axis = a.weight("quantized_data"), int(a.weight("axis").values.reshape(-1)[0])
    along = [1] * data.values.ndim
    along[axis] = -1
    scale, zero = (
        w.values.reshape(along if w.values.size > 1 else [1] * data.values.ndim)
        for w in (a.weight("scale"), a.weight("zero_point"))
    )
    values = ((data.values.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)).astype(scale.dtype)
    return (Weight(values, None, data.values, zero, _unique(a.parts), data.bits),)


def _cast(a: _Arguments) -> tuple[Weight, ...]:
    source = a.weight("source_val")
    return (Weight(source.values.astype(np.float32), parts=_unique(a.parts), bits=source.bits),)


def _const(a: _Arguments) -> tuple[Weight, ...]:
    return (a.weight("val"),)


_DECODERS: dict[str, Callable[[_Arguments], tuple[Weight, ...]]] = {
    "const": _const,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
    "constexpr_affine_dequantize": _affine,
    "constexpr_cast": _cast,
}
