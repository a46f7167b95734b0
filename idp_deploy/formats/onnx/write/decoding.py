"""Sparse weights inside an ONNX file: the encoded parts as initializers, and standard nodes that put them back.

onnxruntime evaluates these nodes once, while it creates the session, so that the optimized graph is the one of the
dense file. That holds because every node stands inline in the main graph (local functions are not folded by older
versions) and every shape is static (a node with a data-dependent shape, such as Compress or NonZero, stops folding).
What a decode graph costs at rest is its nodes: names are short, and constants are shared by the whole file.

The operators are chosen by what runtimes do with them (bench.compat_onnx runs each encoding through each). BitShift
broadcast over bytes is wrong in OpenVINO as soon as a matrix product reads the weight, and OpenCV refuses it; Mod and
Div of uint8 are wrong in OpenVINO: so bits are tested by BitwiseAnd and a cast to bool, and what shares a byte or two
is split in int32. OpenCV's classic engine takes GatherElements of computed indices and gives other numbers, while it
refuses Gather of them: palettes are looked up by Gather. MNN scatters numbers of four bytes alone, whatever their type
says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.encodings import BASE, ESCAPE, encode
from idp_deploy.formats.onnx.bodies import bits_of, names_around, names_in
from idp_deploy.formats.onnx.write.nodes import all_nodes

# kind → bytes of its decode nodes and of the names and headers around its parts, for a tensor of four extents; some 60
# fewer where another tensor has as many entries
OVERHEAD = {"bitmask": 250, "gaps8": 160, "gaps5": 270, "gaps4": 460}
UNIFORM = "uniform"  # one value repeated, of which nothing else is stored
# numbers that no operator puts into their places → wider ones that hold them exactly, and are cast to them afterwards
NARROW = {TensorProto.INT4: np.int8, TensorProto.UINT4: np.uint8} | dict.fromkeys(
    (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ),
    np.float16,
)
NARROW_OPSET = 21  # Cast to int4
WIDER = {
    dtype: np.dtype(wide)
    for kind, wide in NARROW.items()
    if helper.np_dtype_to_tensor_dtype(dtype := helper.tensor_dtype_to_np_dtype(kind)) == kind  # an older onnx has none
}


class Decoder:
    """Collects initializers and decode nodes for one graph, then puts them in front of the graph's own nodes.

    Args:
        taken: names that are not free, for graphs inside of one another; those given are added.
    """

    def __init__(self, graph: onnx.GraphProto, taken: set[str] | None = None) -> None:
        self.graph = graph
        self.initializers: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._blanks: dict[tuple[int, str, bytes], str] = {}
        self._aliases: dict[str, str] = {}
        self._taken = names_in(graph.node) | names_around(graph) if taken is None else taken
        self._count = 0

    def name(self) -> str:
        """A short unused name."""
        while True:
            self._count += 1
            name = _base36(self._count)
            if name not in self._taken:
                self._taken.add(name)
                return name

    def store(self, array: np.ndarray, name: str = "") -> str:
        """Add an initializer."""
        name = name or self.name()
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, array: np.ndarray) -> str:
        """An initializer shared by equal constants."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.store(array)
        return self._constants[key]

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        output = output or self.name()
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def cast(self, name: str, dtype: np.dtype[Any], *, output: str = "") -> str:
        """A tensor in another type."""
        return self.node("Cast", name, output=output, to=helper.np_dtype_to_tensor_dtype(dtype))

    def copy(self, of: str, name: str, *, transposed: bool) -> None:
        """Make the restored tensor `of` available as `name` without storing it again."""
        if transposed:
            self.node("Transpose", of, output=name, perm=[1, 0])
        else:
            self.node("Identity", of, output=name)

    def alias(self, of: str, name: str) -> None:
        """Let whoever reads `name` read `of` instead: a node less to load."""
        self._aliases[name] = of

    def uniform(self, values: np.ndarray, output: str) -> None:
        """One value repeated: a shape and a value instead of the tensor."""
        self.node("ConstantOfShape", self.ints(*values.shape), output=output, value=numpy_helper.from_array(values[:1]))

    def filled(self, count: int, blank: np.ndarray) -> str:
        """The one value of `blank` (1,) repeated `count` times, shared by all that start from it."""
        key = (count, blank.dtype.str, blank.tobytes())
        if key not in self._blanks:
            value = numpy_helper.from_array(blank)
            self._blanks[key] = self.node("ConstantOfShape", self.ints(count), value=value)
        return self._blanks[key]

    def ints(self, *values: int) -> str:
        """A shared one-dimensional int64 constant."""
        return self.constant(np.array(values, np.int64))

    def read_as(self, name: str) -> str:
        """What stands for a name, itself if nothing does."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def finish(self) -> None:
        """Write everything into the graph; decode nodes come first, as ONNX wants topological order."""
        for node in all_nodes(self.graph) if self._aliases else ():
            node.input[:] = [self.read_as(name) for name in node.input]
        self.graph.initializer.extend(self.initializers)
        own = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *own])


def decode_graph(
    decoder: Decoder,
    kind: str,
    values: np.ndarray,
    mask: np.ndarray,
    *,
    fill: int = 0,
    palette: np.ndarray | None = None,
    wide: np.dtype[Any] | None = None,
    output: str = "",
) -> str:
    """Store `values` as `kind` and append the nodes that restore it; returns the name of the restored tensor.

    Args:
        values: any dtype ONNX knows; entries where `mask` is False are `fill`.
        palette: float32 (≤ 16,): `values` are then uint8 indices into it, stored in 4 bits each, 0 where `mask` is
            False, and palette[0] is what such an entry decodes to. The restored tensor is float32.
        wide: what the stored values are cast to before they are put into their places; then the tensor's type.
        output: name of the restored tensor; a fresh one by default.
    """
    if kind == "dense" and palette is None:
        return decoder.store(values, output)
    flat = _flat(decoder, kind, values, mask, fill, palette, wide)
    return decoder.node("Reshape", flat, decoder.ints(*values.shape), output=output)


def decode_pieces(
    decoder: Decoder,
    kind: str,
    values: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    *,
    fill: int = 0,
    wide: np.dtype[Any] | None = None,
) -> None:
    """Store tensors of one dtype as one sequence and append the nodes that restore each under its name.

    A runtime spends as long on the nodes of a small tensor as on a large one's entries, so small ones share theirs:
    also the one that gives them their extents, where these differ in the first alone.
    """
    families: dict[tuple[int, ...], list[str]] = {}
    for name, array in values.items():
        families.setdefault(array.shape[1:], []).append(name)
    order = [name for family in families.values() for name in family]
    flat, mask = (np.concatenate([arrays[name].reshape(-1) for name in order]) for arrays in (values, masks))
    whole = _flat(decoder, kind, flat, mask, fill, None, wide)
    parts = _split(decoder, whole, [sum(values[name].size for name in family) for family in families.values()])
    for part, (extents, family) in zip(parts, families.items(), strict=True):
        rows = [len(values[name]) for name in family]
        shaped = family[0] if len(family) == 1 else decoder.name() if extents else part
        if shaped != part:
            decoder.node("Reshape", part, decoder.ints(sum(rows), *extents), output=shaped)
        if len(family) > 1:
            _split(decoder, shaped, rows, family)


def _split(decoder: Decoder, whole: str, sizes: Sequence[int], names: Sequence[str] = ()) -> Sequence[str]:
    """The parts of `whole` along its first extent, under their names or fresh ones; itself where it is one part."""
    if len(sizes) == 1:
        return (whole,)
    names = names or tuple(decoder.name() for _ in sizes)
    decoder.nodes.append(helper.make_node("Split", [whole, decoder.ints(*sizes)], names, axis=0))
    return names


def _flat(
    decoder: Decoder,
    kind: str,
    values: np.ndarray,
    mask: np.ndarray,
    fill: int,
    palette: np.ndarray | None,
    wide: np.dtype[Any] | None,
) -> str:
    if kind == UNIFORM:
        return decoder.filled(values.size, values[:1])
    encoded = encode(kind, values, mask, fill=fill)
    parts, count, entries = encoded.parts, values.size, encoded.parts["values"]
    fills = np.full(1, fill, values.dtype)
    blank = palette[:1] if palette is not None else fills if wide is None else fills.astype(wide)

    def stored(array: np.ndarray) -> str:
        if palette is not None:
            return _looked_up(decoder, array, palette)
        name = decoder.store(array)
        return name if wide is None else decoder.cast(name, wide)

    if kind == "dense":
        return stored(entries)
    if kind in ("gaps8", "gaps5"):
        triples = parts.get("triples")
        gaps = _wide(decoder, parts["gaps"]) if triples is None else _distances(decoder, triples, entries.size)
        return decoder.node("ScatterElements", decoder.filled(count, blank), _cumulated(decoder, gaps), stored(entries))
    # the gather of these two reads index 0 where nothing is stored
    led = stored(np.concatenate([fills, entries]))
    restore = _gaps4 if kind == "gaps4" else _bitmask
    return restore(decoder, parts, led, count, blank)


def _distances(decoder: Decoder, triples: np.ndarray, count: int) -> str:
    """triples (⌈count / 3⌉,) uint16 → int32 (count,): each holds one distance of every run, to base 40."""
    base, square = (decoder.constant(np.array(BASE**n, np.int32)) for n in (1, 2))
    code = _wide(decoder, triples)
    first, middle = (decoder.node("Mod", x, base) for x in (code, decoder.node("Div", code, base)))
    last = decoder.node("Div", code, square)
    runs = decoder.node("Concat", first, middle, last, axis=0)
    return decoder.node("Slice", runs, decoder.ints(0), decoder.ints(count)) if count % 3 else runs


def _gaps4(decoder: Decoder, parts: Mapping[str, np.ndarray], led: str, count: int, blank: np.ndarray) -> str:
    """codes (c,) uint8, values (1 + stored,) → (count,).

    A code k < 15 skips k zeros and stores a value, 15 skips 15 zeros: with keep = (code < 15), the running sum of
    code + keep is one past the position each code ends at. An escape scatters a zero there, where a zero belongs. The
    padding of an odd number of codes is cut off first, for it would end behind the tensor.
    """
    packed = parts["codes"]
    code = _nibbles(decoder, packed)
    if packed.size and packed[-1] >> 4 == ESCAPE:
        code = decoder.node("Slice", code, decoder.ints(0), decoder.ints(2 * packed.size - 1))
    keep = decoder.node("Less", code, decoder.constant(np.array(ESCAPE, np.int32)))
    keep = decoder.node("Cast", keep, to=TensorProto.INT32)
    ends = _cumulated(decoder, decoder.node("Add", code, keep))
    places = decoder.node("Sub", ends, decoder.constant(np.array(1, np.int32)))
    chosen = decoder.node("Mul", _cumulated(decoder, keep), keep)
    entries = decoder.node("GatherElements", led, chosen)
    return decoder.node("ScatterElements", decoder.filled(count, blank), places, entries)


def _bitmask(decoder: Decoder, parts: Mapping[str, np.ndarray], led: str, count: int, blank: np.ndarray) -> str:
    """bits (⌈count / 8⌉,) uint8, values (1 + stored,) → (count,)."""
    bits = decoder.store(_planes(parts["bits"], 1))
    tested = decoder.node("BitwiseAnd", bits, decoder.constant(1 << np.arange(8, dtype=np.uint8)[:, None]))
    flags = decoder.node("Reshape", decoder.node("Cast", tested, to=TensorProto.BOOL), decoder.ints(-1))
    keep = decoder.node("Cast", flags, to=TensorProto.INT32)
    chosen = decoder.node("Mul", _cumulated(decoder, keep), keep)
    entries = decoder.node("GatherElements", led, chosen)
    return decoder.node("Slice", entries, decoder.ints(0), decoder.ints(count)) if count % 8 else entries


def _looked_up(decoder: Decoder, indices: np.ndarray, palette: np.ndarray) -> str:
    """indices (n,) in 0…15 → palette[indices] (n,), two indices a byte."""
    even = np.concatenate([indices, np.zeros(indices.size % 2, np.uint8)])
    codes = _nibbles(decoder, even[0::2] | even[1::2] << 4)
    if indices.size % 2:
        codes = decoder.node("Slice", codes, decoder.ints(0), decoder.ints(indices.size))
    return decoder.node("Gather", decoder.store(palette), codes)


def _nibbles(decoder: Decoder, packed: np.ndarray) -> str:
    """packed uint8 (n,), low half first → int32 (2n,), split by division: byte = 16 · high + low."""
    sixteen = decoder.constant(np.array(16, np.int32))
    code = _wide(decoder, _planes(packed, 4))
    high = decoder.node("Div", code, sixteen)
    low = decoder.node("Sub", code, decoder.node("Mul", high, sixteen))
    return decoder.node("Concat", low, high, axis=0)


def _planes(packed: np.ndarray, bits: int) -> np.ndarray:
    """packed uint8 (n,), lowest bits first → uint8 (n,): first what stood in every byte's lowest bits, then the next.

    Unpacking a plane is then one operation over all bytes, which onnxruntime does many times faster than all of one
    byte's fields after another.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = packed[:, None] >> shifts & np.uint8(2**bits - 1)  # (n, 8 / bits)
    planes = codes.reshape(shifts.size, packed.size) << shifts[:, None]
    return np.bitwise_or.reduce(planes, axis=0)


def around(
    decoder: Decoder, values: str, points: np.ndarray, shape: tuple[int, ...] | None = None, *, output: str
) -> str:
    """values + points (of 4 or 8 bits, broadcast), around the end of their range, as `shape`; returns `output`.

    The values are as `above` makes them. The sum is taken in int32, where it fits: what a cast does with a number
    beyond its range, runtimes do not agree on.
    """
    start = np.array(lowest(points.dtype), np.int32)  # of the range, which begins at 0 for Mod
    total = decoder.node(
        "Add", decoder.node("Cast", values, to=TensorProto.INT32), _wide(decoder, above(points, start))
    )
    total = decoder.node("Mod", total, decoder.constant(np.array(1 << bits_of(points.dtype), np.int32)))
    if start:
        total = decoder.node("Add", total, decoder.constant(start))
    if shape is not None:  # before the cast: onnxruntime has no Reshape of int4
        total = decoder.node("Reshape", total, decoder.ints(*shape))
    return decoder.cast(total, points.dtype, output=output)


def above(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """values − points in unsigned integers of the bits that the values have, around the end of these."""
    bits = bits_of(values.dtype)
    unsigned = helper.tensor_dtype_to_np_dtype(TensorProto.UINT4) if bits == 4 else np.uint8
    return (values.astype(np.int16) - points.astype(np.int16) & (1 << bits) - 1).astype(unsigned)


def lowest(dtype: np.dtype[Any]) -> int:
    """The lowest of integers, of 4 bits too."""
    return -(1 << bits_of(dtype) - 1) if WIDER.get(dtype, dtype).kind == "i" else 0


def _wide(decoder: Decoder, array: np.ndarray) -> str:
    """Stored as it is, int32 in the graph."""
    return decoder.node("Cast", decoder.store(array), to=TensorProto.INT32)


def _cumulated(decoder: Decoder, value: str) -> str:
    return decoder.node("CumSum", value, decoder.constant(np.array(0, np.int32)))


def sparse_initializer(values: np.ndarray, mask: np.ndarray, name: str) -> onnx.SparseTensorProto:
    """ONNX's own sparse constant: values with flat int64 indices, 8 bytes a position."""
    flat = mask.reshape(-1)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values.reshape(-1)[flat], name),
        numpy_helper.from_array(np.flatnonzero(flat).astype(np.int64), ""),
        list(values.shape),
    )


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return "_" + text
