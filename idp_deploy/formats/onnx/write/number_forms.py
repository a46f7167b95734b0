"""In which numbers a weight is stored: float32, float16, int8 with scales, or a 4-bit palette.

The integers or the palette are those that `quantize` chose. Where others quantized the model, or a converter put
weights together, they are found again from the values. Either is used where it restores these (up to the rounding of a
folded batch norm) and saves bytes. All forms are decoded to float32 while the session loads: a DequantizeLinear in
front of a float operator would stay in the graph and cost time at every inference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np

from idp_deploy.errors import ConversionError
from idp_deploy.flow import Levels
from idp_deploy.formats.onnx.write.decoding import WIDER, above, lowest
from idp_deploy.formats.onnx.write.storing import ENCODABLE, Weight, cost
from idp_deploy.quantizers import dequantize_int8, dequantize_palette, palettize, quantize_int8

_LARGEST_HALF = float(np.finfo(np.float16).max)
_INTEGERS = {dtype for dtype in ENCODABLE | WIDER.keys() if WIDER.get(dtype, dtype).kind in "iu"}
_BLOCKS = (16, 32, 64, 128, 256)  # entries that quantizers give one zero point
_ROWS = 1024  # counted at once
_RELATIVE = 1e-5  # far below half a step of 8 bits, far above the rounding of two float32 products


def smallest_form(
    plain: Weight, scheme: str | None, encoding: str, levels: Levels | None = None
) -> tuple[Weight, bool]:
    """`plain` in the form of the model's quantization scheme, or as it is where that form does not fit or not pay.

    Args:
        levels: what `quantize` made of it, as it lies here.

    Returns:
        (the weight, whether the form fits).
    """
    if not _has_forms(plain):
        return plain, True
    forms = list(_forms(plain, scheme, levels))
    if not forms:
        return plain, scheme is None
    return min([plain, *forms], key=lambda weight: cost(weight, encoding)), True


def _has_forms(plain: Weight) -> bool:
    """A matrix of float32 without the infinities of a mask, which stays as it is in every scheme.

    A vector with axes of extent 1, as slopes a channel are, has few bytes to save, and OpenCV wants it stored.
    """
    is_matrix = sum(extent > 1 for extent in plain.values.shape) > 1
    return plain.values.dtype == np.float32 and is_matrix and bool(np.isfinite(plain.values).all())


def _forms(plain: Weight, scheme: str | None, levels: Levels | None) -> Iterator[Weight]:
    if levels is not None:
        yield Weight(plain.name, levels.q, plain.mask, scale=levels.scale, palette=levels.palette)
    elif scheme == "fp16":
        yield _half(plain)
    elif scheme in ("int8", "int8-weights"):
        yield from _integers(plain)
    elif scheme == "lut4":
        indices, palette = palettize(plain.values, plain.mask)
        if np.allclose(dequantize_palette(indices, palette), plain.values, rtol=_RELATIVE, atol=0):
            yield Weight(plain.name, indices, plain.mask, palette=palette)


def exact_forms(plain: Weight) -> Iterator[Weight]:
    """The other forms that mean `plain`'s values exactly, for a model whose scheme is unknown."""
    narrow = [replace(form, mask=form.values != (fill := usual(form.values)), fill=fill) for form in _narrow(plain)]
    yield from narrow
    for form in (plain, *narrow):
        yield from _moved(form)


def usual(values: np.ndarray) -> int:
    """What most entries are: 0 but for integers, which mean zero where they equal a zero point."""
    if values.dtype not in _INTEGERS or not values.size or np.count_nonzero(values) < values.size / 2:
        return 0
    start = lowest(values.dtype)
    return int(np.bincount(values.reshape(-1).astype(np.int32) - start).argmax()) + start


def _narrow(plain: Weight) -> Iterator[Weight]:
    """A matrix of float32 as float16, or as int8 with scales."""
    if not _has_forms(plain):
        return
    halves = plain.values.astype(np.float16) if np.abs(plain.values).max(initial=0) < _LARGEST_HALF else None
    if halves is not None and np.array_equal(halves.astype(np.float32), plain.values):
        yield Weight(plain.name, halves, plain.mask, half=True)
    for form in _integers(plain):
        if form.scale is not None and np.array_equal(form.values.astype(np.float32) * form.scale, plain.values):
            yield form


def _moved(form: Weight) -> Iterator[Weight]:
    """A weight of 4 or 8 bits as what is above the usual entry of each channel or block, which its zero points are."""
    values = form.values
    if values.dtype not in _INTEGERS or values.dtype.itemsize != 1 or values.ndim < 2 or not values.size:
        return
    for shape, apart in _groups(values.shape):
        parted = values.reshape(shape)
        within = [axis for axis in range(len(shape)) if axis not in apart]
        rows = parted.transpose(*apart, *within).reshape(prod(shape[axis] for axis in apart), -1)
        each = _usual_of_rows(rows)
        if np.any(each != form.fill):
            points = each.reshape([extent if axis in apart else 1 for axis, extent in enumerate(shape)])
            moved = above(parted, points)
            whole = None if shape == values.shape else values.shape
            yield replace(form, values=moved, mask=moved != 0, fill=0, points=points, shape=whole)


def _groups(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(the extents with those in blocks taken apart, the axes along which zero points may differ).

    The rows of more than two axes are the blocks of `MatMulNBits`.

    >>> [*_groups((3, 32))]
    [((3, 32), (0,)), ((3, 32), (1,)), ((3, 2, 16), (0, 1))]
    """
    for axis in dict.fromkeys((0, 1, len(shape) - 1)):
        yield shape, (axis,)
    if len(shape) > 2:
        yield shape, tuple(range(len(shape) - 1))
        return
    for axis, length in product((0, 1), _BLOCKS):
        if shape[axis] > length and shape[axis] % length == 0:
            parted = (*shape[:axis], shape[axis] // length, length, *shape[axis + 1 :])
            yield parted, tuple(each for each in range(3) if each != axis + 1)


def _usual_of_rows(rows: np.ndarray) -> np.ndarray:
    """(n, entries) of 4 or 8 bits → (n,), `usual` of each."""
    first, found = lowest(rows.dtype), [np.zeros(0, rows.dtype)]
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS].astype(np.int32) - first
        codes = part + 256 * np.arange(len(part), dtype=np.int32)[:, None]
        counts = np.bincount(codes.reshape(-1), minlength=256 * len(part)).reshape(len(part), 256)
        found.append((counts.argmax(axis=1) + first).astype(rows.dtype))
    return np.concatenate(found)


def _half(plain: Weight) -> Weight:
    """Rounded to float16. Batch norm folding may have moved a value out of its range; zeros must stay the mask's."""
    tiny, largest = np.finfo(np.float16).smallest_subnormal, np.finfo(np.float16).max
    if np.abs(plain.values).max(initial=0) > largest:
        raise ConversionError(
            f"weight '{plain.name}' reaches {np.abs(plain.values).max():g} after batch norm folding, beyond float16",
            way_out="use scheme int8-weights, or leave the model float32",
        )
    rounded = plain.values.astype(np.float16)
    lost = (rounded == 0) & (plain.values != 0)
    rounded[lost] = np.copysign(tiny, plain.values[lost])
    return Weight(plain.name, rounded, plain.mask, half=True)


def _integers(plain: Weight) -> Iterator[Weight]:
    """int8 with one scale an entry of the first or second axis, or a row: what linear, transposed and recurrent
    layers keep their output channels on."""
    values = plain.values
    for shape, axis in ((values.shape, 0), (values.shape, 1), ((-1, values.shape[-1]), 0)):
        flat = values.reshape(shape)
        q, scale = quantize_int8(flat, axis)
        if np.allclose(dequantize_int8(q, scale, axis), flat, rtol=_RELATIVE, atol=0):
            extents = [*values.shape[:-1], 1] if len(shape) == 2 and shape[0] == -1 else [1] * values.ndim
            if shape[0] != -1:
                extents[axis] = -1
            yield Weight(plain.name, q.reshape(values.shape), plain.mask, scale=scale.reshape(extents))
            return
