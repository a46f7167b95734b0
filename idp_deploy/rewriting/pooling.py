"""pooling: where the largest of each window lay, and what is put back there, for formats that tell values alone."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from idp_deploy.rewriting.elementwise import chosen
from idp_deploy.rewriting.images import windows
from idp_deploy.rewriting.spelling import Row, replace

aten = torch.ops.aten
_MOST = 64  # entries of a window: beyond, the graph would be all slices
_POOLS = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}


def with_places(
    axes: int,
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Largest values, and their places in the flattened plane: the first of several, as torch takes it.

    Args:
        axes: how many of the last ones are pooled.
        x: (…, plane) → twice (…, windows).
    """
    window, padding, dilation = (_each(v, axes) for v in (window, padding, dilation))
    stride = _each(stride, axes) if stride else window
    if math.prod(window) > _MOST:
        return None
    values: Tensor = _POOLS[axes](x, window, stride, padding, dilation, ceil_mode)  # type: ignore[operator]
    extents, counts = x.shape[-axes:], values.shape[-axes:]
    entries, offsets = _entries(axes, x, counts, window, stride, padding, dilation)
    if set(dilation) != {1}:
        values = reduce(torch.maximum, entries)
    first = torch.stack(entries, -1).argmax(-1)
    within = torch.tensor(offsets).index_select(0, first.flatten()).reshape(first.shape)
    return values, within + _starts(counts, stride, padding, extents)


def by_planes(
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Largest values of volumes: of every plane, then along the depth, by the kernels that images have."""
    if (gaps := dilated(3, x, window, stride, padding, dilation, ceil_mode)) is not None:
        return gaps
    window, padding = _each(window, 3), _each(padding, 3)
    stride = _each(stride, 3) if stride else window
    *batch, channels, depth, rows, columns = x.shape
    pool: Any = torch.max_pool2d
    planes = pool(x.reshape(*batch, channels * depth, rows, columns), window[1:], stride[1:], padding[1:], 1, ceil_mode)
    rows, columns = planes.shape[-2:]
    lines = planes.reshape(*batch, channels, depth, rows * columns)
    pooled = pool(lines, [window[0], 1], [stride[0], 1], [padding[0], 0], 1, ceil_mode)
    return pooled.reshape(*batch, channels, pooled.shape[-2], rows, columns)  # type: ignore[no-any-return]


def dilated(
    axes: int,
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor | None:
    """Largest values of windows with gaps, entry against entry; None where there are no gaps."""
    if set(dilation) == {1}:
        return None
    found = with_places(axes, x, window, stride, padding, dilation, ceil_mode)
    return None if found is None else found[0]


def _entries(
    axes: int,
    x: Tensor,
    counts: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[list[Tensor], list[int]]:
    """Of each entry of a window, what lies there in all windows, and its distance from their start."""
    extents = x.shape[-axes:]
    reach = [dilation[i] * (window[i] - 1) + (counts[i] - 1) * stride[i] + 1 for i in range(axes)]
    borders = [(padding[i], max(0, reach[i] - extents[i] - padding[i])) for i in range(axes)]
    if any(map(any, borders)):
        x = F.pad(x, [n for border in reversed(borders) for n in border], value=torch.finfo(x.dtype).min)
    entries, offsets = [], []
    for entry in itertools.product(*map(range, window)):
        part = x
        for i, place in enumerate(entry):
            start = place * dilation[i]
            part = torch.ops.aten.slice.Tensor(
                part, i - axes, start, start + (counts[i] - 1) * stride[i] + 1, stride[i]
            )
        entries.append(part)
        offsets.append(_flat([place * dilation[i] for i, place in enumerate(entry)], extents))
    return entries, offsets


def adaptive_with_places(axes: int, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same of as many windows as are wanted, each axis shared out among them: columns, then rows.

    That way the first of several in a window is the first in the order of the plane.
    """
    extents, places, pitch = x.shape[-axes:], None, 1
    for axis, extent, wanted in reversed(list(zip(range(-axes, 0), extents, _each(size, axes), strict=True))):
        largest, found = [], []
        for start, end in windows(extent, wanted):
            part = x.narrow(axis, start, end - start)
            first = part.argmax(axis, keepdim=True)
            before = 0 if places is None else places.narrow(axis, start, end - start).gather(axis, first)
            largest.append(part.amax(axis, keepdim=True))
            found.append((first + start) * pitch + before)
        x, places, pitch = torch.cat(largest, axis), torch.cat(found, axis), pitch * extent
    assert places is not None
    return x, places


def put_back(module: fx.GraphModule) -> None:
    """Unpooling by the places of a pool whose windows do not overlap, in place: a value against its window's entries.

    Other unpoolings stay, for a converter to hold or to refuse by name.
    """
    for node in list(module.graph.nodes):
        if node.target is not aten.max_unpool2d.default:
            continue
        places = node.args[1]
        while places.target in (aten.unsqueeze.default, aten.squeeze.dim):
            places = places.args[0]
        pool = places.args[0] if places.target is operator.getitem else None
        if pool is None or pool.target not in _BY_WINDOW:
            continue
        axes = _BY_WINDOW[pool.target]
        plane = list(pool.args[0].meta["val"].shape[-axes:])
        window, stride, padding, dilation = (_each(v, axes) for v in _windowing(pool))
        if all(s >= w for s, w in zip(stride, window, strict=True)) and dilation == [1] * axes:
            more = 2 - axes  # of a sequence the plane is one column
            one = [1] * more
            row = partial(_unpooled, plane + one, window + one, stride + one, padding + [0] * more)
            replace(module, node, row)
    module.graph.lint()
    module.recompile()


def _windowing(pool: fx.Node) -> tuple[Any, ...]:
    """(window, stride, padding, dilation) of a pool's call."""
    given = (*pool.args[1:], *((), (0,), (1,))[len(pool.args) - 2 :])
    window, stride, padding, dilation = (pool.kwargs.get(n, v) for n, v in zip(_WORDS, given, strict=False))
    return window, stride or window, padding, dilation


_WORDS = ("kernel_size", "stride", "padding", "dilation")


def _unpooled(
    plane: list[int],
    window: list[int],
    stride: list[int],
    padding: list[int],
    x: Tensor,
    places: Tensor,
    size: Sequence[int],
) -> Tensor:
    """(…, windows) → (…, size), zero where no value goes."""
    counts = x.shape[-2:]
    lead = list(x.shape[:-2])
    x, places = x.reshape(-1, *counts), places.reshape(-1, *counts)
    within = (places - _starts(counts, stride, padding, plane)).reshape(-1, *counts, 1, 1)
    offsets = torch.tensor([[_flat([row, column], plane) for column in range(window[1])] for row in range(window[0])])
    parts = chosen(within == offsets, x.reshape(-1, *counts, 1, 1), 0.0)
    parts = F.pad(parts, [0, stride[1] - window[1], 0, stride[0] - window[0]])
    whole = parts.transpose(2, 3).reshape(-1, counts[0] * stride[0], counts[1] * stride[1])
    for axis in (0, 1):
        whole = whole.narrow(axis + 1, padding[axis], whole.shape[axis + 1] - padding[axis])
        whole = whole.narrow(axis + 1, 0, min(plane[axis], whole.shape[axis + 1]))
    whole = F.pad(whole, [0, plane[1] - whole.shape[2], 0, plane[0] - whole.shape[1]])
    if list(size) != plane:  # places count through the plane that was pooled, whatever rows the new one has
        entries = math.prod(size)
        line = whole.flatten(1).narrow(1, 0, min(entries, math.prod(plane)))
        whole = F.pad(line, [0, entries - line.shape[1]])
    return whole.reshape([*lead, *size])


def _each(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _flat(entry: Sequence[int], extents: Sequence[int]) -> int:
    """The place of an entry when its plane is one line."""
    place = 0
    for i, extent in zip(entry, extents, strict=True):
        place = place * int(extent) + i
    return place


def _starts(counts: Sequence[int], stride: Sequence[int], padding: Sequence[int], extents: Sequence[int]) -> Tensor:
    """Where each window begins in the flattened plane: (windows)."""
    first = ([i * stride[a] - padding[a] for a, i in enumerate(w)] for w in itertools.product(*map(range, counts)))
    return torch.tensor([_flat(entry, extents) for entry in first]).reshape([int(n) for n in counts])


_BY_WINDOW: dict[Any, int] = {
    aten.max_pool1d_with_indices.default: 1,
    aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d_with_indices.default: 3,
}
DILATED: dict[Any, Row] = {
    aten.max_pool1d.default: partial(dilated, 1),
    aten.max_pool2d.default: partial(dilated, 2),
    aten.max_pool3d.default: partial(dilated, 3),
}
ADAPTIVE_LARGEST: dict[Any, Row] = {
    aten.adaptive_max_pool1d.default: partial(adaptive_with_places, 1),
    aten.adaptive_max_pool2d.default: partial(adaptive_with_places, 2),
    aten.adaptive_max_pool3d.default: partial(adaptive_with_places, 3),
}
LARGEST: dict[Any, Row] = {
    **{target: partial(with_places, axes) for target, axes in _BY_WINDOW.items()},
    **ADAPTIVE_LARGEST,
}
