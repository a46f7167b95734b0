"""Operators on images, said in plainer ones: their borders, windows and sizes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


def circular_pad(x: Tensor, pads: list[int], mode: str = "constant", value: float | None = None) -> Tensor | None:
    """What lies at the other end, set beside each end."""
    if mode != "circular" or min(pads) < 0:
        return None
    for i, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        axis, extent = -1 - i, x.shape[-1 - i]
        parts = [x.narrow(axis, extent - before, before), x, x.narrow(axis, 0, after)]
        x = torch.cat([part for part in parts if part.shape[axis]], axis)
    return x


def means(
    axes: int,
    x: Tensor,
    window: list[int],
    stride: list[int] | None = None,
    padding: tuple[int, ...] | list[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
    *,
    borders_too: bool = False,
    by_planes: bool = False,
) -> Tensor | None:
    """Means over windows of what has a border of zeros already, times what each window's number differs from its size.

    torch.onnx drops a divisor of the caller's; integer kernels have neither borders nor parts of windows.

    Args:
        axes: how many of the last ones are pooled.
        borders_too: not only where there is a divisor, where there is a border or a last window that sticks out too.
        by_planes: volumes as planes, then along the depth.
    """
    if divisor is None and not by_planes and not (borders_too and (any(padding) or ceil_mode)):
        return None
    window, stride, padding = (list(v) * (axes // len(v)) for v in (window, stride or window, padding))
    pads, shares = [], []
    for extent, size, step, pad in zip(x.shape[-axes:], window, stride, padding, strict=True):
        spare = extent + 2 * pad - size
        count = (-(-spare // step) if ceil_mode else spare // step) + 1
        count -= ceil_mode and (count - 1) * step >= extent + pad  # a window that begins behind the end
        starts = [i * step - pad for i in range(count)]
        pads.append((pad, max(0, starts[-1] + size - extent)))
        low, high = (-pad, extent + pad) if count_include_pad else (0, extent)
        shares.append([size / (min(start + size, high) - max(start, low)) for start in starts])
    if any(map(any, pads)):
        x = torch.nn.functional.pad(x, [n for pair in reversed(pads) for n in pair])
    pool: Any = (torch.avg_pool1d, torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d)[axes - 1]
    pooled: Tensor = _mean_planes(x, window, stride) if by_planes else pool(x, window, stride)
    if divisor is not None:
        return pooled * (math.prod(window) / divisor)
    if all(share == 1 for line in shares for share in line):
        return pooled
    factors = torch.ones(1, dtype=x.dtype)
    for line in shares:
        factors = factors.unsqueeze(-1) * torch.tensor(line, dtype=x.dtype)
    return pooled * factors.reshape([1, 1, *(len(line) for line in shares)][-x.dim() :])


def _mean_planes(x: Tensor, window: list[int], stride: list[int]) -> Tensor:
    """([N,] C, depth, rows, columns): means of every plane, then along the depth."""
    pool, (*batch, channels, depth, rows, columns) = torch.nn.functional.avg_pool2d, x.shape
    planes = pool(x.reshape(*batch, channels * depth, rows, columns), window[1:], stride[1:])
    rows, columns = planes.shape[-2:]
    pooled = pool(planes.reshape(*batch, channels, depth, rows * columns), [window[0], 1], [stride[0], 1])
    return pooled.reshape(*batch, channels, pooled.shape[-2], rows, columns)


def avg_pool_rounded_up(
    axes: int,
    x: Tensor,
    window: list[int],
    stride: list[int] | None = None,
    padding: tuple[int, ...] | list[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor | None:
    """Means over windows that reach beyond a border that counts: the border first, then a pool that counts none.

    Runtimes divide such windows by all of their places, also those that are beyond the border; torch does not.
    """
    if divisor is not None or not (ceil_mode and count_include_pad):
        return means(axes, x, window, stride, padding, ceil_mode, count_include_pad, divisor)
    spans, borders = (list(each) * (axes // len(each)) for each in (window, padding))
    steps = list(stride or window) * (axes // len(stride or window))
    pool: Any = getattr(torch.nn.functional, f"avg_pool{axes}d")
    extents, counts = x.shape[-axes:], pool(x, spans, steps, borders, True).shape[-axes:]
    pads: list[int] = []
    for extent, count, span, step, border in zip(extents, counts, spans, steps, borders, strict=True):
        reach = (count - 1) * step + span - border - extent  # torch drops what would start in a border
        pads[:0] = [border, min(border, max(reach, 0))]
    x = torch.nn.functional.pad(x, pads) if any(pads) else x
    result: Tensor = pool(x, spans, steps, 0, True, False)
    return result


def nearest2d(x: Tensor, size: list[int] | None, factors: list[float] | None) -> Tensor | None:
    """Rows, then columns, as torch chooses them; None where each is repeated a whole number of times."""
    extents = x.shape[-2:]
    wanted = size or [int(extent * factor) for extent, factor in zip(extents, factors or (), strict=True)]
    if all(after % before == 0 for before, after in zip(extents, wanted, strict=True)):
        return None
    for i, (before, after) in enumerate(zip(extents, wanted, strict=True)):
        step = np.float32(1 / factors[i]) if factors else np.float32(before) / np.float32(after)
        places = np.minimum(np.floor(np.arange(after, dtype=np.float32) * step).astype(int), before - 1)
        x = x.index_select(i - 2, torch.tensor(places.tolist()))
    return x


def linear(x: Tensor, size: list[int] | None, corners: bool, factors: list[float] | None) -> Tensor | None:
    """Axis after axis, each entry between two, by the factors that were given: converters take the ratio of the sizes.

    None where both are the same.
    """
    if not factors or corners:
        return None
    axes = len(factors)
    extents = x.shape[-axes:]
    if all(float(e * f).is_integer() for e, f in zip(extents, factors, strict=True)):
        return None
    for i, (before, factor) in enumerate(zip(extents, factors, strict=True)):
        places = np.maximum((np.arange(int(before * factor)) + 0.5) / factor - 0.5, 0)
        low = np.minimum(places.astype(int), before - 1)
        high = np.minimum(low + 1, before - 1)
        shares = torch.tensor((places - low).tolist(), dtype=x.dtype).reshape(-1, *[1] * (axes - 1 - i))
        first, second = (x.index_select(i - axes, torch.tensor(rows.tolist())) for rows in (low, high))
        x = first * (1 - shares) + second * shares
    return x


def smoothed(x: Tensor, size: list[int] | None, corners: bool, factors: list[float] | None, reach: int) -> Tensor:
    """Resizing with `antialias=True`, as a product with one matrix an axis.

    Args:
        reach: how far a pixel is seen, in pixels of the smaller side: 1 of linear, 2 of cubic.
    """
    for i, before in enumerate(x.shape[-2:]):
        after = size[i] if size else int(before * factors[i])  # type: ignore[index]
        if corners:
            step = (before - 1) / (after - 1) if after > 1 else 0.0
        else:
            step = 1 / factors[i] if factors else before / after
        shares = torch.tensor(_shares(before, after, step, reach).tolist(), dtype=x.dtype)
        x = torch.matmul(shares, x) if i == 0 else torch.matmul(x, shares.t())
    return x


def _shares(before: int, after: int, step: float, reach: int) -> np.ndarray:
    """What each old pixel gives to each new one: (after, before), every row of sum 1.

    >>> _shares(4, 2, 2.0, 1)
    array([[0.42857143, 0.42857143, 0.14285714, 0.        ],
           [0.        , 0.14285714, 0.42857143, 0.42857143]])
    """
    wide = max(step, 1.0)
    middles, old = step * (np.arange(after)[:, None] + 0.5), np.arange(before)
    first, end = ((middles + side * reach * wide + 0.5).astype(int) for side in (-1, 1))
    away = np.abs(old + 0.5 - middles) / wide
    if reach == 1:
        seen = 1 - away
    else:  # Keys' cubic with slope -0.5, where plain bicubic resizing has -0.75
        near, far = (1.5 * away - 2.5) * away**2 + 1, ((-0.5 * away + 2.5) * away - 4) * away + 2
        seen = np.where(away < 1, near, far)
    seen = np.where((away < reach) & (old >= first) & (old < end), seen, 0)
    shares: np.ndarray = seen / seen.sum(1, keepdims=True)
    return shares


SMOOTHED = {
    aten._upsample_bilinear2d_aa.vec: partial(smoothed, reach=1),
    aten._upsample_bicubic2d_aa.vec: partial(smoothed, reach=2),
}


def adaptive_avg_pool3d(x: Tensor, size: list[int]) -> Tensor:
    """The mean of each window, axis after axis."""
    for axis, wanted in zip((-3, -2, -1), size, strict=True):
        spans = windows(x.shape[axis], wanted)
        x = torch.cat([x.narrow(axis, a, b - a).mean(axis, keepdim=True) for a, b in spans], axis)
    return x


def unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Windows of `size` entries every `step`, side by side on a last axis; PyTorch says them by strides."""
    dim %= x.dim()
    count = (x.shape[dim] - size) // step + 1
    places = (torch.arange(count)[:, None] * step + torch.arange(size)).flatten()
    return x.index_select(dim, places).unflatten(dim, (count, size)).movedim(dim + 1, -1)


def windows(extent: int, wanted: int) -> list[tuple[int, int]]:
    """Where adaptive pooling looks: [start, end) for each result.

    >>> windows(7, 3)
    [(0, 3), (2, 5), (4, 7)]
    """
    return [(i * extent // wanted, -(-(i + 1) * extent // wanted)) for i in range(wanted)]


def col2im(
    x: Tensor, size: list[int], kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> Tensor:
    """Overlapping windows added up where they lie, columns first: (batch, channels · kh · kw, windows) → images."""
    batched = x if x.dim() == 3 else x.unsqueeze(0)
    (high, wide), batch, channels = kernel, batched.shape[0], batched.shape[1] // (kernel[0] * kernel[1])
    whole = [size[i] + 2 * padding[i] for i in (0, 1)]
    rows, columns = ((whole[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    windows = batched.reshape(batch * channels * high, wide, rows, columns).transpose(1, 2)
    lines = _overlapped(windows.reshape(-1, wide, columns), whole[1], dilation[1], stride[1])
    upright = lines.reshape(batch * channels, high * rows, whole[1]).transpose(1, 2)
    result = _overlapped(upright.reshape(-1, high, rows), whole[0], dilation[0], stride[0])
    result = result.reshape(batch, channels, whole[1], whole[0]).transpose(2, 3)
    result = result.narrow(2, padding[0], size[0]).narrow(3, padding[1], size[1])
    return result if x.dim() == 3 else result.squeeze(0)


def _overlapped(x: Tensor, extent: int, dilation: int, stride: int) -> Tensor:
    """Windows on a line, added up: (lines, entries of a window, windows) → (lines, extent)."""
    lines, entries, count = x.shape
    pad, total, reach = torch.nn.functional.pad, None, (count - 1) * stride + 1
    for entry in range(entries):
        placed = x[:, entry]
        if stride > 1:
            placed = pad(placed.unsqueeze(-1), (0, stride - 1)).reshape(lines, count * stride)[:, :reach]
        placed = pad(placed, (entry * dilation, extent - entry * dilation - reach))
        total = placed if total is None else total + placed
    assert total is not None
    return total


BY_DIVISORS: dict[Any, Any] = {
    aten.avg_pool2d.default: partial(means, 2),
    aten.avg_pool3d.default: partial(means, 3),
}
MEANS_OF_WINDOWS: dict[Any, Any] = {  # without borders and without volumes
    aten.avg_pool1d.default: partial(means, 1, borders_too=True),
    aten.avg_pool2d.default: partial(means, 2, borders_too=True),
    aten.avg_pool3d.default: partial(means, 3, by_planes=True),
}
ROUNDED_UP: dict[Any, Any] = {
    getattr(aten, f"avg_pool{axes}d").default: partial(avg_pool_rounded_up, axes) for axes in (1, 2, 3)
}
