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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from idp_deploy.flow import Levels
from idp_deploy.formats.coreai.write.building import Builder, constants, inline, values_of
from idp_deploy.formats.coreai.write.matching import Match, Matching
from idp_deploy.formats.writing import fewest, laid_out, means, pruned
from idp_deploy.quantizers import palettize, quantize_int8

_FEWEST = 10  # entries below which nothing can be saved
_OPERATOR_BYTES = 60  # what one more operator takes in the program


@dataclass(frozen=True, eq=False)
class Found:
    """What a constant of the program is."""

    match: Match
    label: str  # the weight's name in the file; none where another constant has it, or the constant is no parameter


@dataclass(frozen=True, eq=False)
class Storage:
    """Steers the storing."""

    weights: Mapping[str, np.ndarray]  # parameters and buffers by name, float32
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)  # True = kept
    axes: Mapping[str, int] = field(default_factory=dict)  # output axis, along which int8 scales run
    encoding: str = "auto"  # auto | dense | sparse
    scheme: str = ""  # "" | int8 | lut4
    covered: frozenset[str] = frozenset()  # parameters that the scheme is for
    levels: Mapping[str, Levels] = field(default_factory=dict)  # what `quantize` made of them
    found: Mapping[int, Found] = field(default_factory=dict)  # by the constant's position in the program

    def with_masks(self, masks: Mapping[str, np.ndarray]) -> Storage:
        """The same, for other zeros."""
        return replace(self, masks={name: mask for name, mask in masks.items() if name in self.weights})

    def places(self) -> dict[str, str]:
        """Parameter → tensor in the file. Tied weights are stored once and found under every name."""
        placed: dict[str, str] = {}
        for one in self.found.values():
            for name in one.match.names:
                placed.setdefault(name, one.label or placed.get(name, name))
        return placed


def located(program: Any, weights: Mapping[str, np.ndarray]) -> dict[int, Found]:
    """The float constants of a program that are worth storing otherwise, by position."""
    matching = Matching(weights)
    found: dict[int, Found] = {}
    taken: set[str] = set()
    for position, op in enumerate(constants(program)):
        values = values_of(op)
        if values is None or values.dtype not in (np.float16, np.float32) or values.size < _FEWEST:
            continue
        match = matching.find(values)
        label = next((name for name in match.names if name not in taken), "")
        taken.add(label)
        found[position] = Found(match, label)
    return found


def store(program: Any, storage: Storage) -> dict[str, str]:
    """Replace the float constants of a program by their smallest encoding, in place.

    Returns:
        tensor in the file → the row of the table that was chosen.
    """
    builder = Builder()
    encodings: dict[str, str] = {}
    for position, op in enumerate(constants(program)):
        one = storage.found.get(position)
        values = values_of(op) if one else None
        if one is None or values is None:
            inline(op)
            continue
        match = one.match
        mask = _kept(values, match, storage)
        values, narrow = pruned(values, mask), _narrow(values, mask, match, storage)
        choice = _smallest(values, mask, narrow, storage)
        if one.label:
            encodings[one.label] = choice
        with builder.before(op, one.label):
            builder.replace(op, _compressed(builder, values, mask, choice, narrow))
    return encodings


def _channels(match: Match, values: np.ndarray, storage: Storage) -> int | None:
    name = next((name for name in match.names if name in storage.axes), None)
    return None if name is None else match.channels(storage.weights[name], storage.axes[name], values.shape)


def _masked(match: Match, storage: Storage) -> str | None:
    return next((name for name in match.names if name in storage.masks), None)


def _kept(values: np.ndarray, match: Match, storage: Storage) -> np.ndarray:
    """What is stored: by the parameter's mask, where it has one; also a kept entry that float16 rounds to zero."""
    name = _masked(match, storage)
    return values != 0 if name is None else match.lay_out(storage.masks[name], values.shape)


def _exact(values: np.ndarray, match: Match, storage: Storage) -> np.ndarray:
    """The parameter's float32 numbers, from which integers and palettes are made."""
    if not match.names:
        return values
    exact, name = match.lay_out(storage.weights[match.names[0]], values.shape), _masked(match, storage)
    return exact if name is None else pruned(exact, match.lay_out(storage.masks[name], values.shape))


def _narrow(values: np.ndarray, mask: np.ndarray, match: Match, storage: Storage) -> Levels | None:
    """The integers or the palette that `quantize` chose, else those that the values are; None where they are none."""
    if not storage.scheme or values.ndim < 2 or not storage.covered.intersection(match.names):
        return None
    exact = _exact(values, match, storage)
    known = next((storage.levels[name] for name in match.names if name in storage.levels), None)
    if known is not None:
        found = laid_out(known, lambda array: match.lay_out(array, values.shape), exact, mask)
        if found is not None:
            return found
    if storage.scheme == "lut4":
        indices, palette = palettize(exact, mask, bits=4)
        found = Levels(indices, palette=palette)
    else:
        axis = _channels(match, values, storage)
        if axis is None:
            return None
        q, scale = quantize_int8(exact, axis)
        found = Levels(q, np.expand_dims(scale, tuple(a for a in range(values.ndim) if a != axis)))
    return found if means(found, exact) else None


def _smallest(values: np.ndarray, mask: np.ndarray, narrow: Levels | None, storage: Storage) -> str:
    """The row of the table with the fewest bytes, among those the options allow."""
    entries, kept, width = values.size, int(mask.sum()), values.dtype.itemsize
    if values.ndim < 2 or not kept:
        return "dense"
    bits = (entries + 7) // 8
    sparse = {"sparse": bits + kept * width + 3 * _OPERATOR_BYTES}
    # A dense row shows a kept zero as pruned: allowed only where the numbers alone tell what is kept.
    dense = {"dense": entries * width} if np.count_nonzero(values) == kept else {}
    if narrow is not None and narrow.scale is not None:
        scales = narrow.scale.size * width + 4 * _OPERATOR_BYTES
        sparse["sparse+int8"] = bits + kept + scales + 3 * _OPERATOR_BYTES
        if np.count_nonzero(narrow.q) == kept:
            dense["int8"] = entries + scales
    elif narrow is not None:
        table = 16 * width + 3 * _OPERATOR_BYTES
        sparse["sparse+lut4"] = bits + (kept + 1) // 2 + table + 3 * _OPERATOR_BYTES
        dense["lut4"] = (entries + 1) // 2 + table
    return fewest(dense, sparse, storage.encoding, zeros=kept < entries)


def _compressed(builder: Builder, values: np.ndarray, mask: np.ndarray, choice: str, narrow: Levels | None) -> Any:
    """The value that takes the constant's place."""
    kept = mask.reshape(-1)
    is_sparse = choice.startswith("sparse")
    if choice.endswith("int8") and narrow is not None and narrow.scale is not None:
        integers = builder.sparse(narrow.q.reshape(-1)[kept], mask) if is_sparse else builder.constant(narrow.q)
        return builder.scaled(integers, narrow.scale.astype(values.dtype))
    if choice.endswith("lut4") and narrow is not None and narrow.palette is not None:
        table = narrow.palette.astype(values.dtype)
        if not is_sparse:
            return builder.palette(narrow.q, table)
        return builder.sparse_of(builder.palette(narrow.q.reshape(-1)[kept], table), mask)
    if is_sparse:
        return builder.sparse(values.reshape(-1)[kept], mask)
    return builder.constant(values)
