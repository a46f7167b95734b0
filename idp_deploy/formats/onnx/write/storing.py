"""One weight → its initializers and nodes in the file, in the encoding that is smallest there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from idp_deploy.encodings import size_bytes, smallest
from idp_deploy.formats.onnx.bodies import bits_of
from idp_deploy.formats.onnx.write.decoding import (
    OVERHEAD,
    UNIFORM,
    WIDER,
    Decoder,
    around,
    decode_graph,
    decode_pieces,
    sparse_initializer,
)
from idp_deploy.formats.onnx.write.matching import copies

SPARSE_INITIALIZER = "sparse-initializer"
PORTABLE = ("gaps8", "gaps5", "gaps4")  # no BitwiseAnd, which bits need and some runtimes lack
ENCODINGS = ("auto", "portable", "dense", *OVERHEAD, SPARSE_INITIALIZER)
SHARED_ENTRIES = 64  # equal tensors of fewer entries are cheaper repeated than shared through a node
# What a denser layout must save besides its nodes, since all that they compute is written to fresh memory while a file
# loads, and what it reads there once more: gaps4 and gaps5 take a multiple of gaps8's (bench.onnx_runtime).
_WORTH = {**OVERHEAD, "gaps5": OVERHEAD["gaps5"] + 10240, "gaps4": OVERHEAD["gaps4"] + 32768}
# From here on it is memory that counts: onnxruntime keeps each result until all are folded, at 90 % zeros 2.7 times the
# dense weights for gaps8, 2.9 for gaps5, 4.3 for gaps4 and 6 for bitmask. These two must save that share of the tensor.
LARGE_BYTES, _SHARE = 1 << 24, 0.01
# Smaller tensors share their decode nodes: those cost a runtime more than copying the entries once again
GROUPED_BYTES = 1 << 16
_NODE_BYTES = 40
ENCODABLE = {np.dtype(t) for t in (np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.uint16)}


@dataclass(frozen=True, eq=False)
class Weight:
    """What is stored for one tensor. The restored tensor is float32 where `scale` or `palette` is given or
    `values` are float16, has the dtype of `points` where these are given, else that of `values`.

    `scale` broadcasts against `values`: restored = values · scale, or palette[values] · scale. So do `points`, for
    4 and 8 bits: restored = values + points, around the end of the range where the sum is beyond it, before they are
    scaled.
    """

    name: str
    values: np.ndarray
    mask: np.ndarray  # True = stored; elsewhere values are `fill`
    scale: np.ndarray | None = None
    palette: np.ndarray | None = None  # float32 (16,); `values` are then indices
    half: bool = False  # float16 on disk for a float32 tensor
    fill: int = 0  # what entries are that are not stored: for integers with a zero point, that
    points: np.ndarray | None = None  # of 4 or 8 bits: for integers with a zero point a channel or block, these
    shape: tuple[int, ...] | None = None  # of the restored tensor, where `values` have an axis more, for blocks

    @property
    def bits(self) -> int:
        """What one stored value takes."""
        return 4 if self.palette is not None else bits_of(self.values.dtype)

    @property
    def is_cast(self) -> bool:
        """Whether its stored numbers become float32 by a cast."""
        return self.half or (self.scale is not None and self.palette is None)

    @property
    def is_narrow(self) -> bool:
        """Whether it takes fewer bits than a float32 would."""
        return self.palette is not None or self.values.dtype.itemsize < 4


class Store:
    """Writes weights into one file. Equal values, also transposed ones, are stored once, small tensors side by side.

    Args:
        grouped: whether small tensors may share their decode nodes.
        nameless: those whose name nobody asks for, such as scales: one of equal ones stands for all.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoding: str,
        weights: Sequence[Weight],
        *,
        grouped: bool = True,
        nameless: Collection[str] = (),
    ) -> None:
        self.decoder = decoder
        self._nameless = set(nameless) - {value.name for value in decoder.graph.output}
        self.kinds = {weight.name: choose(weight, encoding) for weight in weights}
        points = {w.name for w in weights if _is_zero_points(w.values)}
        # one node makes all; not for tools that decode nothing: OpenCV's classic engine refuses a Split of what is made
        self._points = set() if encoding in ("dense", SPARSE_INITIALIZER) else points
        large = [w for w in weights if w.palette is None and w.values.size >= SHARED_ENTRIES and _is_copied(w.values)]
        whole = [w for w in large if w.name not in points]
        alike = [[w for w in whole if w.is_cast is casts] for casts in (False, True)]
        self._copies = copies({w.name: w.values for w in alike[0]}) | copies({w.name: w.values for w in alike[1]})
        # not always, for then everything between is done in four bytes
        firsts = [w for w in weights if w.is_cast and w.points is None] if encoding == "portable" else []
        self._cast_first = {w.name for w in firsts if self._is_encoded(w)}
        self._restored: dict[str, str] = {}  # weight → the name of its restored values, before cast and scale
        self._groups = self._grouped(weights) if grouped else {}
        self._pieces: dict[str, str] = {}  # weight → the name of its stored values, once its group is decoded

    def add(self, weight: Weight) -> None:
        """Append the weight in the encoding it takes."""
        decoder = self.decoder
        inner = self._piece(weight) if weight.name in self._groups else self._values(weight, self._inner_name(weight))
        self._restored[weight.name] = inner
        own = "" if self._cast_last(weight) else weight.name
        if weight.points is not None:
            inner = around(decoder, inner, weight.points, weight.shape, output=own)
        if (dtype := self._cast_last(weight)) is not None:
            inner = decoder.cast(inner, dtype, output=weight.name if weight.scale is None else "")
        if weight.scale is not None:
            decoder.node("Mul", inner, decoder.store(weight.scale.astype(np.float32)), output=weight.name)

    def _cast_first_to(self, weight: Weight) -> np.dtype[Any] | None:
        """The type in which its stored numbers are put into their places, where that is not their own."""
        return np.dtype(np.float32) if weight.name in self._cast_first else WIDER.get(weight.values.dtype)

    def _cast_last(self, weight: Weight) -> np.dtype[Any] | None:
        """The type of all entries, where that is not the one in which they were put into their places."""
        if weight.values.dtype in WIDER:  # points are added in their own type
            return weight.values.dtype if self.kinds[weight.name] in OVERHEAD and weight.points is None else None
        return np.dtype(np.float32) if weight.is_cast and weight.name not in self._cast_first else None

    def _inner_name(self, weight: Weight) -> str:
        """What its stored values are called once restored: its own name, unless they are cast, scaled or moved."""
        is_last = weight.scale is None and weight.points is None and self._cast_last(weight) is None
        return weight.name if is_last else self.decoder.name()

    def _values(self, weight: Weight, output: str) -> str:
        """The stored values under the name `output`, without cast and scale."""
        decoder, kind = self.decoder, self.kinds[weight.name]
        copy = self._copies.get(weight.name)
        if copy is not None and not copy.transposed and output in self._nameless:
            decoder.alias(self._restored[copy.of], output)
        elif copy is not None:
            decoder.copy(self._restored[copy.of], output, transposed=copy.transposed)
        elif kind == SPARSE_INITIALIZER:
            decoder.graph.sparse_initializer.append(sparse_initializer(weight.values, weight.mask, output))
        elif _is_uniform(weight.values):
            decoder.uniform(weight.values, output)
        else:
            wide, fill, palette = self._cast_first_to(weight), weight.fill, weight.palette
            decode_graph(
                decoder, kind, weight.values, weight.mask, fill=fill, palette=palette, wide=wide, output=output
            )
        return output

    def _piece(self, weight: Weight) -> str:
        """The stored values of a weight that shares its nodes; the first of a group brings these along."""
        if weight.name not in self._pieces:
            group = self._groups[weight.name]
            kind, wide = self.kinds[weight.name], self._cast_first_to(weight)
            named = {self._inner_name(each): each for each in group}
            values, masks = ({name: getattr(w, what) for name, w in named.items()} for what in ("values", "mask"))
            if weight.name in self._points:
                kind = UNIFORM
            decode_pieces(self.decoder, kind, values, masks, fill=weight.fill, wide=wide)
            self._pieces |= {each.name: name for name, each in named.items()}
        return self._pieces[weight.name]

    def _is_encoded(self, weight: Weight) -> bool:
        """Whether nodes put its zeros back, or those of the weight that it repeats."""
        copy = self._copies.get(weight.name)
        return self.kinds[weight.name if copy is None else copy.of] in OVERHEAD and not _is_uniform(weight.values)

    def _grouped(self, weights: Sequence[Weight]) -> dict[str, list[Weight]]:
        """Weight → those small ones that are decoded in the same way, itself among them."""
        groups: dict[tuple[str, np.dtype[Any], int, bool], list[Weight]] = {}
        for weight in weights:
            kind, values = self.kinds[weight.name], weight.values
            stored = weight.name not in self._copies and not _is_uniform(values)
            if weight.name in self._points:
                groups.setdefault((UNIFORM, values.dtype, int(values[0]), False), []).append(weight)
            elif stored and kind in OVERHEAD and weight.palette is None and values.nbytes <= GROUPED_BYTES:
                way = kind, values.dtype, weight.fill, weight.name in self._cast_first
                groups.setdefault(way, []).append(weight)
        return {weight.name: group for group in groups.values() if len(group) > 1 for weight in group}


def _is_copied(values: np.ndarray) -> bool:
    """Whether Identity, Transpose and ConstantOfShape have its type in every opset, as they do not have int4."""
    return values.dtype in ENCODABLE or values.dtype.kind in "iub"


def is_sound(values: np.ndarray) -> bool:
    """No infinity among them, as masks of attention have: zeros are left out of finite numbers only."""
    return values.dtype.kind in "iub" or bool(np.isfinite(values).all())


def _is_uniform(values: np.ndarray) -> bool:
    """Zero points and untrained norms: one value repeated, cheaper said than stored."""
    if values.ndim != 1 or values.size < SHARED_ENTRIES or not _is_copied(values):
        return False
    return values.tobytes() == values[:1].tobytes() * values.size


def _is_zero_points(values: np.ndarray) -> bool:
    """Zero points of a weight, each of which onnxruntime wants to be a constant of its own.

    With `session.x64quantprecision` it writes a weight and its zero point anew as uint8, and names these after the
    constants they came from: 1.30 to 1.32 refuse the second reader of one.
    """
    return values.dtype == np.int8 and _is_uniform(values)


def choose(weight: Weight, encoding: str) -> str:
    """The encoding for this weight: never one that takes more bytes than dense, decode nodes included."""
    if encoding == "dense" or weight.values.dtype not in ENCODABLE | WIDER.keys():
        return "dense"
    if encoding == SPARSE_INITIALIZER:
        if weight.values.dtype in WIDER:
            return "dense"
        fits = weight.palette is None and bool(weight.mask.any()) and weight.fill == 0
        return SPARSE_INITIALIZER if fits and _bytes(weight, SPARSE_INITIALIZER) < weight.values.nbytes else "dense"
    if encoding in ("auto", "portable"):
        kinds = PORTABLE if encoding == "portable" else tuple(OVERHEAD)
        return smallest(weight.mask, weight.bits, kinds, _worth(weight.values.nbytes))
    return smallest(weight.mask, weight.bits, (encoding,), OVERHEAD)


def _worth(dense_bytes: int) -> dict[str, int]:
    """kind → bytes that a tensor of this size must save by it, against one that needs no nodes.

    >>> _worth(1 << 20)["gaps4"], _worth(1 << 26)["gaps4"]
    (33228, 671548)
    """
    share = int(_SHARE * dense_bytes) if dense_bytes >= LARGE_BYTES else 0
    return _WORTH | {kind: max(_WORTH[kind], OVERHEAD[kind] + share) for kind in ("gaps4", "bitmask")}


def cost(weight: Weight, encoding: str) -> int:
    """Bytes this weight takes in the file: parts, scales, palette, and about what its nodes take."""
    size = _bytes(weight, choose(weight, encoding))
    if weight.scale is not None:
        size += 4 * weight.scale.size + _NODE_BYTES
    if weight.palette is not None:
        size += weight.palette.nbytes + 4 * _NODE_BYTES
    if weight.points is not None:
        size += weight.points.size * bits_of(weight.points.dtype) // 8 + (7 if weight.shape else 6) * _NODE_BYTES
    return size + (_NODE_BYTES if weight.values.dtype != np.float32 else 0)


def _bytes(weight: Weight, kind: str) -> int:
    if kind == SPARSE_INITIALIZER:
        stored = int(np.count_nonzero(weight.mask))
        return ceil(stored * weight.bits / 8) + 8 * stored
    return size_bytes(kind, weight.mask, weight.bits) + OVERHEAD.get(kind, 0)
