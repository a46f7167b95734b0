"""One weight → its initializers and nodes in the file, in the encoding that is smallest there."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from onnx import TensorProto

from idp_deploy.encodings import smallest
from idp_deploy.exporting.onnx_decoding import OVERHEAD, Decoder, decode_graph, sparse_initializer

SPARSE_INITIALIZER = "sparse-initializer"
ENCODINGS = ("auto", "dense", *OVERHEAD, SPARSE_INITIALIZER)
_ENCODABLE = {np.dtype(t) for t in (np.float32, np.float16, np.float64, np.int8, np.uint8)}


@dataclass(frozen=True, eq=False)
class Weight:
    """What is stored for one tensor. The restored tensor is float32 where `scale` or `palette` is given or
    `values` are float16, else it has the dtype of `values`.

    `scale` broadcasts against `values`: restored = values · scale, or palette[values] · scale.
    """

    name: str
    values: np.ndarray
    mask: np.ndarray  # True = stored; elsewhere values == fill
    fill: float = 0
    scale: np.ndarray | None = None
    palette: np.ndarray | None = None  # float32 (16,); `values` are then indices
    half: bool = False  # float16 on disk for a float32 tensor


def store(decoder: Decoder, weight: Weight, encoding: str) -> str:
    """Append the weight to the file; returns the encoding it took."""
    kind = choose(weight, encoding)
    casts = weight.half or (weight.scale is not None and weight.palette is None)
    whole = not casts and weight.scale is None
    inner = weight.name if whole else decoder.name()
    if kind == SPARSE_INITIALIZER:
        decoder.graph.sparse_initializer.append(sparse_initializer(weight.values, weight.mask, inner))
    else:
        decode_graph(decoder, kind, weight.values, weight.mask, fill=weight.fill, palette=weight.palette, output=inner)
    if casts:
        last = weight.scale is None
        inner = decoder.node("Cast", inner, output=weight.name if last else "", to=TensorProto.FLOAT)
    if weight.scale is not None:
        decoder.node("Mul", inner, decoder.store(weight.scale.astype(np.float32)), output=weight.name)
    return kind


def choose(weight: Weight, encoding: str) -> str:
    """The encoding for this weight: never one that takes more bytes than dense, decode nodes included."""
    if weight.values.dtype not in _ENCODABLE or encoding == "dense":
        return "dense"
    bits = 4 if weight.palette is not None else weight.values.dtype.itemsize * 8
    if encoding == SPARSE_INITIALIZER:
        stored = int(np.count_nonzero(weight.mask))
        smaller = ceil(stored * bits / 8) + 8 * stored < weight.values.nbytes
        return SPARSE_INITIALIZER if smaller and stored and weight.palette is None and not weight.fill else "dense"
    kinds = tuple(OVERHEAD) if encoding == "auto" else (encoding,)
    return smallest(weight.mask, bits, kinds, OVERHEAD)
