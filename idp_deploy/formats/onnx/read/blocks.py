"""Matrices of a few bits in blocks, as onnxruntime's `MatMulNBits` reads them: as integers, one an entry.

Each of the N rows lies in whole blocks along K, packed with the first entry in the lowest bits; a block has a scale and
a zero point, which is the middle of the range where none is stored (onnxruntime, ContribOperators.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from idp_deploy.errors import FileError
from idp_deploy.flow import StoredTensor
from idp_deploy.formats.onnx.read.constants import Constants
from idp_deploy.formats.onnx.read.tensors import encoding_of

_PACKED, _SCALES, _ZERO_POINTS = 1, 2, 3  # positions of its inputs


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


def in_blocks(constants: Constants, node: onnx.NodeProto, size_bytes: int) -> StoredTensor | None:
    """The weight of a product that decodes it in blocks; None where it is no constant.

    Args:
        size_bytes: of its codes, scales and zero points.

    Raises:
        FileError: its shapes contradict its attributes.
    """
    if any(name and name not in constants for name in node.input[_PACKED : _ZERO_POINTS + 1]):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    bits = int(attributes.get("bits", 4))
    try:
        blocks = _read(constants, node, int(attributes["N"]), int(attributes["K"]), bits, int(attributes["block_size"]))
    except (KeyError, ValueError, ArithmeticError) as error:
        where = f"{constants.loader.path}: the blocks of '{node.input[_PACKED]}'"
        raise FileError(f"{where} contradict N, K, bits and block_size: {error}") from error
    return StoredTensor(
        name=node.input[_PACKED],
        shape=blocks.codes.shape,
        dtype=f"uint{bits}",
        encoding=encoding_of(constants, node.input[_PACKED])[0],
        size_bytes=size_bytes,
        zeros=int(np.count_nonzero(blocks.codes == blocks.spread(blocks.zero_points))),
        values=lambda: blocks.codes,
        value_bits=float(bits),
        dequantize=blocks.floats,
    )


def _read(constants: Constants, node: onnx.NodeProto, rows: int, columns: int, bits: int, length: int) -> Blocks:
    if min(rows, columns, length) < 1:
        raise ValueError("all are above zero")
    count = -(-columns // length)
    codes = _unpacked(constants.value(node.input[_PACKED]).reshape(rows, -1), bits)
    constants.limits.check(codes.shape, node.input[_PACKED])
    if codes.shape[1] != count * length:
        raise ValueError(f"{codes.shape[1]} entries a row for {count} blocks of {length}")
    scales = constants.value(node.input[_SCALES]).reshape(rows, count)
    given = node.input[_ZERO_POINTS] if len(node.input) > _ZERO_POINTS else ""
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
