"""A file as its failed checks ask about it: looked at once, and every size computed once, whoever asks again."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from idp_deploy.encodings import Places, size_bytes
from idp_deploy.facts import facts_of
from idp_deploy.flow import Contents, Layer, StoredTensor
from idp_deploy.formats import FORMATS, Format
from idp_deploy.formats.prunable import prunable_tensors, tensors_apart
from idp_deploy.simulation.narrowing import in_int8
from idp_deploy.simulation.question import Loaded, load
from idp_deploy.simulation.removing import Removable, removable

SCALE_BYTES = 16  # at most, a row of integers: a scale and a zero point
PRICED = ("float32", "float16", "int8")  # the weights that a smaller share of is foretold
OPERATOR_BYTES = 256  # at most, of what turns the integers of a weight into floats again, with its names


class Asked:
    """What several budgets, on several devices, want to know of one file."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self._sizes: dict[tuple[float, float | None], float] = {}
        self._narrower: dict[float, Loaded] = {}

    @cached_property
    def loaded(self) -> Loaded:
        """As work to simulate."""
        return load(self.contents)

    @cached_property
    def in_int8(self) -> Loaded:
        """The same after `quantize --scheme int8`."""
        return in_int8(self.loaded)

    @cached_property
    def narrow(self) -> Asked | None:
        """The file after that, to be asked of in turn; None of one that int8 changes nothing in."""
        contents = self.in_int8.contents
        return Asked(contents) if contents is not None and self.in_int8.work != self.loaded.work else None

    @cached_property
    def removable(self) -> Removable:
        """Its channels that can be removed."""
        return removable(self.contents, self.loaded.work)

    def without(self, share: float) -> Loaded:
        """The same without this share of them."""
        if share not in self._narrower:
            self._narrower[share] = self.removable.without(self.loaded, share)
        return self._narrower[share]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """In execution order, with their bytes and zeros."""
        return facts_of(self.contents).layers

    @cached_property
    def prunable(self) -> tuple[StoredTensor, ...]:
        """The weights whose size is foretold with more of them zero."""
        return tuple(tensor for tensor in prunable_tensors(self.contents) if tensor.dtype in PRICED)

    @cached_property
    def zeros(self) -> float:
        """Their share of zeros as it is, in [0, 1]."""
        entries = sum(found.values.size for found in self._magnitudes.values())
        return 1 - sum(found.nonzero for found in self._magnitudes.values()) / max(entries, 1)

    def size_bytes(self, share: float, bits: float | None = None) -> float:
        """The file with this share of zeros, the smallest, in the cheapest layout; in `bits` a weight or as now."""
        key = (share, bits)
        if key not in self._sizes:
            row, left = FORMATS[self.contents.format], (1 - share) / max(1 - self.zeros, 1e-9)
            new = sum(_priced(t, self._magnitudes[t.name], row, left, bits or t.value_bits) for t in self.prunable)
            other = 0.0 if bits is None else sum(self._narrowed(tensor, bits) for tensor in self.apart)
            before = sum(tensor.size_bytes for tensor in self.prunable)
            self._sizes[key] = self.contents.size_bytes - before + new - other
        return self._sizes[key]

    @cached_property
    def stores_zeros(self) -> bool:
        """Whether a weight is stored densely that would take less without its zeros."""
        row, dense = FORMATS[self.contents.format], (tensor for tensor in self.prunable if not tensor.is_sparse)
        return any(_priced(t, self._magnitudes[t.name], row, 1, t.value_bits) < t.size_bytes for t in dense)

    @cached_property
    def apart(self) -> tuple[StoredTensor, ...]:
        """Tables of embeddings and depthwise kernels: not pruned, but quantized."""
        return tuple(tensor for tensor in tensors_apart(self.contents) if tensor.dtype in PRICED)

    def _narrowed(self, tensor: StoredTensor, bits: float) -> float:
        """Bytes that it takes less in so many bits an entry, without a zero more."""
        ends = FORMATS[self.contents.format].scale_bytes * tensor.shape[0] + OPERATOR_BYTES
        least = math.prod(tensor.shape) * bits / 8 + ends
        return max(tensor.size_bytes - least, 0.0) if bits < tensor.value_bits else 0.0

    @cached_property
    def _magnitudes(self) -> dict[str, _Magnitudes]:
        return {tensor.name: _Magnitudes(np.abs(_decoded(tensor)).ravel()) for tensor in self.prunable}


def _decoded(tensor: StoredTensor) -> np.ndarray:
    return np.asarray((tensor.dequantize or tensor.values)(), np.float32)


class _Magnitudes:
    """|w| of one tensor, put in order once however many shares of it are asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.nonzero = int(np.count_nonzero(values))
        self._last = Places(np.zeros(values.size, bool))  # as it was asked for, for another width
        self._kept = 0

    @cached_property
    def ordered(self) -> np.ndarray:
        """The entries that are not zero, ascending."""
        return np.sort(self.values[self.values != 0])

    @cached_property
    def now(self) -> Places:
        """Where the entries are that are not zero."""
        return Places(self.values != 0)

    def largest(self, share: float) -> Places:
        """Where the largest of them are, that many of those that are not zero; those equal to the last one, too."""
        kept = round(self.nonzero * share)
        if share >= 1 and kept:
            return self.now
        if kept != self._kept:
            floor = self.ordered[self.nonzero - kept] if kept else np.nan  # which none reaches
            self._kept, self._last = kept, Places(self.values >= floor)
        return self._last


def _priced(tensor: StoredTensor, magnitudes: _Magnitudes, row: Format, left: float, bits: float) -> float:
    """Bytes with this share of the non-zero entries left, the largest; as floats never more than it takes now."""
    kept = magnitudes.largest(left)
    layouts = ("bitmask",) if tensor.encoding == "tflm" else row.layouts
    rows = tensor.shape[0] if tensor.shape else 0
    scales = 0 if tensor.dtype.startswith("float") else SCALE_BYTES * rows  # beside integers as they are
    ends = scales  # what a layout takes beside its entries, such as where rows begin
    if tensor.is_sparse:
        now, whole = magnitudes.now, round(tensor.value_bits)
        taken = min((size_bytes(kind, now, whole) for kind in layouts), default=tensor.size_bytes)
        ends = min(max(tensor.size_bytes - taken, 0), 4 * (rows + 1) + scales)
    else:
        scales = min(scales, max(tensor.size_bytes - size_bytes("dense", kept, round(tensor.value_bits)), 0))
        ends = scales + OPERATOR_BYTES  # of what puts the zeros back in
    sparse = min((size_bytes(kind, kept, round(bits)) + ends for kind in layouts), default=tensor.size_bytes)
    least = min(sparse, size_bytes("dense", kept, round(bits)) + scales)
    if bits < tensor.value_bits and tensor.shape:
        return least + row.scale_bytes * tensor.shape[0] + OPERATOR_BYTES
    return min(least, tensor.size_bytes)
