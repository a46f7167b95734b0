"""Which constant of a graph is a weight, how it is stored, and what it costs in the file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from idp_deploy.flow import StoredTensor
from idp_deploy.formats.onnx.bodies import bits_of
from idp_deploy.formats.onnx.read.constants import Constants
from idp_deploy.formats.onnx.read.evaluating import along

_LAYOUT = {"Identity", "Transpose"}  # nodes through which a weight is the same weight
_WEIGHTLESS = {"Clip", "Expand", "Pad", "Resize", "Upsample"}  # operators whose small constants are all arguments
_SMALL = 64  # integer constants up to this size are arguments of an operator (axes, shapes), not weights


@dataclass(frozen=True)
class Origin:
    """Where a constant that an operator reads is stored: `stored` holds the values, `restored` is their float view."""

    name: str  # the tensor's name in `Contents`
    stored: str
    restored: str | None


def origin(constants: Constants, name: str) -> Origin:
    """Follow a constant back: through transposes, to the integers below a dequantization, the halves below a cast."""
    name = _same(constants, name)
    node = constants.nodes.get(name)
    if node is None:
        return Origin(name, name, None)
    if node.op_type == "DequantizeLinear":
        stored = _same(constants, node.input[0])
        return Origin(stored, stored, name)
    if node.op_type == "Cast" and constants.dtype(node.input[0]) == np.float16:
        return Origin(name, node.input[0], None)
    if node.op_type == "Mul":
        for source in node.input:
            cast = constants.nodes.get(source)
            if cast is not None and cast.op_type == "Cast" and constants.dtype(cast.input[0]) in (np.int8, np.uint8):
                return Origin(name, cast.input[0], name)
    return Origin(name, name, None)


def is_argument(values: np.ndarray, operator: str) -> bool:
    """Whether a constant is an operator's argument (an axis, a shape, a factor, names of classes) and no weight."""
    if values.ndim == 0 or values.dtype == object or (operator in _WEIGHTLESS and values.size <= _SMALL):
        return True
    return values.dtype.kind in "iub" and values.dtype.itemsize != 1 and values.ndim <= 1 and values.size <= _SMALL


class Charges:
    """Which tensor the bytes of a file are laid to: a constant that several use to the first, but for the pieces of a
    Split, which hold theirs in common: each bears a part in proportion to its entries that are not zero."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self._charged: set[str] = set()
        self._pieces: dict[str, int] = {}

    def of(self, name: str) -> int:
        """Bytes of all that `name` is computed from, those that were charged before left out."""
        nodes = self.constants.nodes
        for piece in [n for n in self.constants.cone(name) if n in nodes and nodes[n].op_type == "Split"]:
            if piece not in self._pieces:
                self._divide(nodes[piece])
        return self._taken(name)

    def _divide(self, split: onnx.NodeProto) -> None:
        left = sum(self._taken(source) for source in split.input if source)
        shares = [1 + int(np.count_nonzero(self.constants.value(piece))) for piece in split.output]
        for piece, share, behind in zip(split.output, shares, np.cumsum(shares[::-1])[::-1], strict=True):
            self._pieces[piece] = left * share // int(behind)
            left -= self._pieces[piece]

    def _taken(self, name: str) -> int:
        total = 0
        for current in self.constants.cone(name, self._pieces):
            if current in self._pieces:
                total += self._pieces[current]
                self._pieces[current] = 0
            total += self._once(current)
        return total

    def _once(self, name: str) -> int:
        if name not in self.constants.stored or name in self._charged:
            return 0
        self._charged.add(name)
        return self.constants.size_bytes(name)


def describe(
    constants: Constants, found: Origin, values: np.ndarray, charges: Charges, kept: int | None = None
) -> StoredTensor:
    """One weight with its stored values. `charges` tells which of the file's bytes are its own, `kept` how many entries
    mean no zero where its operator says what does."""
    size = charges.of(found.restored or found.name)
    encoding, bits = encoding_of(constants, found.stored)
    zeros = values.size - (_nonzero(constants, found, values) if kept is None else kept)
    restored = found.restored
    return StoredTensor(
        name=found.name,
        shape=values.shape,
        dtype=values.dtype.name,
        encoding=encoding,
        size_bytes=size,
        zeros=zeros,
        values=lambda: constants.value(found.stored),
        value_bits=float(bits or _narrowest(constants, found.stored, values.dtype)),
        dequantize=None if restored is None else lambda: constants.value(restored).astype(np.float32),
    )


def encoding_of(constants: Constants, name: str) -> tuple[str, int]:
    """(encoding, bits of a palette index or 0), from the shape of the decode graph."""
    cone = constants.cone(name)
    if any(isinstance(constants.stored.get(n), onnx.SparseTensorProto) for n in cone):
        return "sparse_initializer", 0
    nodes = [constants.nodes[n] for n in cone if n in constants.nodes]
    kinds = {node.op_type for node in nodes}
    scatters = [node for node in nodes if node.op_type == "ScatterElements"]
    kind = "dense"
    if scatters and "CumSum" in kinds:
        positions = {constants.nodes[n].op_type for n in constants.cone(scatters[-1].input[1]) if n in constants.nodes}
        kind = "gaps4" if "Less" in positions else "gaps5" if "Div" in positions else "gaps8"
    elif {"CumSum", "GatherElements"} <= kinds and kinds & {"BitwiseAnd", "BitShift"}:  # BitShift: before 0.2
        kind = "bitmask"
    if any(_is_palette(constants, node) for node in nodes):
        return ("lut4" if kind == "dense" else f"{kind}+lut4"), 4
    return kind, 0


def _is_palette(constants: Constants, node: onnx.NodeProto) -> bool:
    if node.op_type not in ("Gather", "GatherElements") or node.input[0] not in constants.stored:
        return False
    tensor = constants.stored[node.input[0]]
    is_table = isinstance(tensor, TensorProto) and len(tensor.dims) == 1 and tensor.dims[0] <= 16
    sources = {constants.nodes[n].op_type for n in constants.cone(node.input[1]) if n in constants.nodes}
    return is_table and bool(sources & {"Div", "BitShift"}) and "CumSum" not in sources  # BitShift: before 0.2


def _narrowest(constants: Constants, name: str, dtype: np.dtype) -> int:
    """Bits of a stored value: those of the numbers that a weight put together from several parts is cast from."""
    bits = bits_of(dtype)
    for current in constants.cone(name) if dtype.kind == "f" else ():
        node = constants.nodes.get(current)
        if node is not None and node.op_type == "Cast":
            source = constants.dtype(node.input[0])
            if source.kind in "fiuV" and constants.dtype(current) == dtype:  # V: bfloat16, float8
                bits = min(bits, bits_of(source))
    return bits


def _nonzero(constants: Constants, found: Origin, values: np.ndarray) -> int:
    """How many of the stored values do not mean zero: integers mean it where they equal their zero point."""
    node = constants.nodes.get(found.restored or "")
    if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3 or not node.input[2]:
        return int(np.count_nonzero(values))
    zero_point = constants.value(node.input[2])
    if zero_point.size > 1:
        values = constants.value(node.input[0])  # not transposed: the axis refers to this layout
        zero_point = along(zero_point, values, {a.name: a.i for a in node.attribute})
    return int(np.count_nonzero(values != zero_point))


def _same(constants: Constants, name: str) -> str:
    while name in constants.nodes and constants.nodes[name].op_type in _LAYOUT:
        name = constants.nodes[name].input[0]
    return name
