"""Matrices of a few bits in blocks, as onnxruntime's `MatMulNBits` and `QMoE` read them: as integers, one an entry.

Each of the N rows lies in whole blocks along K, packed with the first entry in the lowest bits; a block has a scale and
a zero point, which is the middle of the range where none is stored (onnxruntime, ContribOperators.md). `QMoE` has such
a matrix an expert, whose rows are one block each where it says no `block_size`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper

from idp_deploy.errors import FileError
from idp_deploy.flow import StoredTensor
from idp_deploy.formats.onnx.read.constants import Constants
from idp_deploy.formats.onnx.read.tensors import encoding_of

# operator → the role of each of its matrices, and the positions of its codes, scales and zero points
PARTS: dict[str, dict[str, tuple[int, int, int]]] = {
    "MatMulNBits": {"weight": (1, 2, 3)},
    "QMoE": {"weight": (2, 3, 11), "weight of fc2": (5, 6, 12), "weight of fc3": (8, 9, 13)},
}


@dataclass(frozen=True)
class Blocks:
    """One such matrix: `codes` (N, K) as uint8, `scales` and `zero_points` (N, blocks)."""

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    length: int  # entries of a block

    def spread(self, each: np.ndarray) -> np.ndarray:
        """What each block has, for each of its entries: (N, K)."""
        return np.repeat(each, self.length, axis=1)[:, : self.codes.shape[1]]

    def floats(self) -> np.ndarray:
        """The matrix that the product computes with, (N, K) in float32."""
        steps = self.codes.astype(np.float32) - self.spread(self.zero_points)
        return (steps * self.spread(self.scales)).astype(np.float32)


def in_blocks(constants: Constants, node: onnx.NodeProto, role: str, size_bytes: int) -> StoredTensor | None:
    """A weight of a product that decodes it in blocks, (N, K) or (experts, N, K); None where it is no constant.

    Args:
        size_bytes: of its codes, scales and zero points.

    Raises:
        FileError: its shapes contradict its attributes.
    """
    names = parts_of(node, role)
    if any(name and name not in constants for name in names):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    bits = int(attributes.get("bits", attributes.get("expert_weight_bits", 4)))
    try:
        if node.op_type == "MatMulNBits":
            shape: tuple[int, ...] = int(attributes["N"]), int(attributes["K"])
        else:
            experts, rows, packed = constants.value(names[0]).shape
            shape = experts, rows, packed * 8 // bits
        blocks = _read(constants, names, shape, bits, int(attributes.get("block_size", 0)) or shape[-1])
    except (KeyError, ValueError, ArithmeticError) as error:
        where = f"{constants.loader.path}: the blocks of '{names[0]}'"
        raise FileError(f"{where} contradict N, K, bits and block_size: {error}") from error
    return StoredTensor(
        name=names[0],
        shape=shape,
        dtype=f"uint{bits}",
        encoding=encoding_of(constants, names[0])[0],
        size_bytes=size_bytes,
        zeros=int(np.count_nonzero(blocks.codes == blocks.spread(blocks.zero_points))),
        values=lambda: blocks.codes.reshape(shape),
        value_bits=float(bits),
        dequantize=lambda: blocks.floats().reshape(shape),
    )


def parts_of(node: onnx.NodeProto, role: str) -> tuple[str, ...]:
    """Names of the codes, scales and zero points of one matrix, the last empty where it has none."""
    return tuple(node.input[at] if at < len(node.input) else "" for at in PARTS[node.op_type][role])


def _read(constants: Constants, names: tuple[str, ...], shape: tuple[int, ...], bits: int, length: int) -> Blocks:
    if min(*shape, length) < 1:
        raise ValueError("all are above zero")
    packed, scale, given = names
    rows, columns = prod(shape[:-1]), shape[-1]
    count = -(-columns // length)
    codes = _unpacked(constants.value(packed).reshape(rows, -1), bits)
    constants.limits.check(codes.shape, packed)
    if codes.shape[1] != count * length:
        raise ValueError(f"{codes.shape[1]} entries a row for {count} blocks of {length}")
    scales = constants.value(scale).reshape(rows, count)
    points = constants.value(given) if given else np.full((rows, count), 1 << (bits - 1), np.uint8)
    if given and points.dtype == np.uint8:
        points = _unpacked(points.reshape(rows, -1), bits)[:, :count]
    return Blocks(codes[:, :columns], scales, points.reshape(rows, count), length)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The entries of each row, from the lowest bits of each byte upwards.

    >>> _unpacked(np.array([[0x21, 0x43]], np.uint8), 4)
    array([[1, 2, 3, 4]], dtype=uint8)
    """
    if bits not in (2, 4, 8):
        raise ValueError(f"{bits} bits")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)
