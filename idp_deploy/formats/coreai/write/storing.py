"""storing: the program's float constants, each in the fewest bytes.

Each constant is found again among the model's parameters by its numbers, and the parameter's mask, not the constant's
zeros, says what is stored. Per tensor the smallest row of the table wins:

    dense                 a constant
    sparse                kept values + a mask of one bit an entry
    int8, sparse+int8     integers, a scale a channel (blockwise_shift_scale)
    lut4, sparse+lut4     indices of four bits, one palette (lut_to_dense)

A constant keeps its parameter's name as a debugging entry, the only place that the bytecode leaves for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from idp_deploy.formats.coreai.write.building import Builder, constants, inline, values_of
from idp_deploy.formats.coreai.write.matching import Match, Matching
from idp_deploy.quantizers import palettize, quantize_int8

_FEWEST = 10  # entries below which nothing can be saved
_OPERATOR_BYTES = 60  # what one more operator takes in the program


@dataclass(eq=False)
class Storage:
    """Steers the storing and collects what it did.

    Afterwards `placed` maps parameter names to tensor names in the file, and `encodings` tensor names to the row of
    the table that was chosen.
    """

    weights: Mapping[str, np.ndarray]  # parameters and buffers by name, float32
    masks: Mapping[str, np.ndarray]  # True = kept
    axes: Mapping[str, int] = field(default_factory=dict)  # output axis, along which int8 scales run
    encoding: str = "auto"  # auto | dense | sparse
    scheme: str = ""  # "" | int8 | lut4
    covered: frozenset[str] = frozenset()  # parameters that the scheme is for
    placed: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)


def store(program: Any, storage: Storage) -> None:
    """Replace the float constants of a program by their smallest encoding, in place."""
    matching = Matching(storage.weights)
    builder = Builder()
    for op in constants(program):
        values = values_of(op)
        if values is None or values.dtype not in (np.float16, np.float32) or values.size < _FEWEST:
            inline(op)
            continue
        match = matching.find(values)
        label = next((name for name in match.names if name not in storage.encodings), "")
        axis = _channels(match, values, storage)
        mask = _kept(values, match, storage)
        choice = _smallest(values, mask, match, axis, storage)
        if label:
            storage.encodings[label] = choice
        for name in match.names:  # tied weights: stored once, found under every name
            storage.placed.setdefault(name, label or storage.placed.get(name, name))
        with builder.before(op, label):
            builder.replace(op, _compressed(builder, values, mask, choice, axis, _exact(values, match, storage)))


def _channels(match: Match, values: np.ndarray, storage: Storage) -> int | None:
    name = next((name for name in match.names if name in storage.axes), None)
    return None if name is None else match.channels(storage.weights[name], storage.axes[name], values.shape)


def _kept(values: np.ndarray, match: Match, storage: Storage) -> np.ndarray:
    """What is stored: by the parameter's mask, where it has one; also a kept entry that float16 rounds to zero."""
    name = next((n for n in match.names if n in storage.masks), None)
    return values != 0 if name is None else match.lay_out(storage.masks[name], values.shape)


def _exact(values: np.ndarray, match: Match, storage: Storage) -> np.ndarray:
    """The parameter's float32 numbers, from which integers and palettes are made."""
    return match.lay_out(storage.weights[match.names[0]], values.shape) if match.names else values


def _smallest(values: np.ndarray, mask: np.ndarray, match: Match, axis: int | None, storage: Storage) -> str:
    """The row of the table with the fewest bytes, among those the options allow."""
    entries, kept, width = values.size, int(mask.sum()), values.dtype.itemsize
    if values.ndim < 2 or not kept:
        return "dense"
    bits = (entries + 7) // 8
    sparse = {"sparse": bits + kept * width + 3 * _OPERATOR_BYTES}
    # A dense row shows a kept zero as pruned: allowed only where the numbers alone tell what is kept.
    dense = {"dense": entries * width} if np.count_nonzero(values) == kept else {}
    if storage.scheme and storage.covered.intersection(match.names):
        if storage.scheme == "int8" and axis is not None:
            scales = values.shape[axis] * width + 4 * _OPERATOR_BYTES
            sparse["sparse+int8"] = bits + kept + scales + 3 * _OPERATOR_BYTES
            if np.count_nonzero(quantize_int8(_exact(values, match, storage), axis)[0]) == kept:
                dense["int8"] = entries + scales
        elif storage.scheme == "lut4":
            table = 16 * width + 3 * _OPERATOR_BYTES
            sparse["sparse+lut4"] = bits + (kept + 1) // 2 + table + 3 * _OPERATOR_BYTES
            dense["lut4"] = (entries + 1) // 2 + table
    if storage.encoding == "dense":
        costs = dense or {"dense": 0}
    elif storage.encoding == "sparse" and kept < entries:
        costs = sparse
    else:
        costs = dense | sparse
    return min(costs, key=lambda row: costs[row])


def _compressed(
    builder: Builder, values: np.ndarray, mask: np.ndarray, choice: str, axis: int | None, exact: np.ndarray
) -> Any:
    """The value that takes the constant's place."""
    kept = mask.reshape(-1)
    is_sparse = choice.startswith("sparse")
    if choice.endswith("int8"):
        assert axis is not None
        q, scale = quantize_int8(exact, axis)
        scales = np.expand_dims(scale, tuple(a for a in range(values.ndim) if a != axis)).astype(values.dtype)
        integers = builder.sparse(q.reshape(-1)[kept], mask) if is_sparse else builder.constant(q)
        return builder.scaled(integers, scales)
    if choice.endswith("lut4"):
        indices, lut = palettize(exact, mask, bits=4)
        table = lut.astype(values.dtype)
        if not is_sparse:
            return builder.palette(indices, table)
        return builder.sparse_of(builder.palette(indices.reshape(-1)[kept], table), mask)
    if is_sparse:
        return builder.sparse(values.reshape(-1)[kept], mask)
    return builder.constant(values)
