"""Convolution, pooling, normalisation and resizing rows of the reference interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.formats.coreml.interpreter.call import Call, Row, adding_to

ROWS: dict[str, Row] = {}
op = adding_to(ROWS)

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@op("conv")
def _conv(call: Call) -> Tensor:
    x, weight = call["x"], call["weight"]
    spatial = x.dim() - 2
    strides, dilations = call.numbers("strides", [1] * spatial), call.numbers("dilations", [1] * spatial)
    pads = _padding(call, x.shape[2:], weight.shape[2:], strides, dilations)
    return _CONVOLVE[spatial](
        _pad(x, pads), weight, call.get("bias"), strides, 0, dilations, int(call.scalar("groups", 1))
    )


@op("conv_transpose")
def _conv_transpose(call: Call) -> Tensor:
    x, weight = call["x"], call["weight"]
    spatial = x.dim() - 2
    strides, dilations = call.numbers("strides", [1] * spatial), call.numbers("dilations", [1] * spatial)
    full = _TRANSPOSE[spatial](x, weight, None, strides, 0, 0, int(call.scalar("groups", 1)), dilations)
    kind, pads = str(call.scalar("pad_type", "valid")), call.numbers("pad", [0] * 2 * spatial)
    wanted = call.numbers("output_shape")[-spatial:] if call.get("output_shape") is not None else None
    cut: list[tuple[int, int]] = []  # (start, length) of what is kept of the full result along each axis
    for i in range(spatial):
        length = full.shape[2 + i]
        if kind in ("same", "same_lower"):
            keep = wanted[i] if wanted else x.shape[2 + i] * strides[i]
            excess = max(length - keep, 0)
            start = excess // 2 if kind == "same" else excess - excess // 2
        else:
            start = pads[2 * i] if kind == "custom" else 0
            end = pads[2 * i + 1] if kind == "custom" else 0
            keep = wanted[i] if wanted else length - start - end
        cut.append((start, keep))
    missing = [max(start + keep - full.shape[2 + i], 0) for i, (start, keep) in enumerate(cut)]
    full = _pad(full, [(0, more) for more in missing])
    for i, (start, keep) in enumerate(cut):
        full = full.narrow(2 + i, start, keep)
    bias = call.get("bias")
    return full if bias is None else full + bias.reshape(-1, *[1] * spatial)


def _padding(
    call: Call, extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) along each spatial axis; "same" keeps ⌈extent / stride⌉ positions."""
    kind = str(call.scalar("pad_type", "valid"))
    if kind == "custom":
        pads = call.numbers("pad", [0] * 2 * len(extents))
        return [(pads[2 * i], pads[2 * i + 1]) for i in range(len(extents))]
    if kind == "valid":
        return [(0, 0)] * len(extents)
    if kind not in ("same", "same_lower"):
        raise ValueError(f"pad_type {kind!r}")
    result = []
    for n, k, s, d in zip(extents, kernel, strides, dilations, strict=True):
        total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if kind == "same" else (large, small))
    return result


def _pad(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    flat = [n for pair in reversed(pads) for n in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


@op("avg_pool")
def _avg_pool(call: Call) -> Tensor:
    x, kernel, strides, pads, extra = _pool(call)
    spatial = len(kernel)
    total = _AVERAGE[spatial](_pad(_pad(x, pads), extra), kernel, strides) * math.prod(kernel)
    counted = torch.ones(x.shape[2:])[None, None]
    exclude = bool(call.scalar("exclude_padding_from_average", False))
    counted = _pad(_pad(counted, pads, 0.0 if exclude else 1.0), extra)
    return total / (_AVERAGE[spatial](counted, kernel, strides) * math.prod(kernel))


@op("max_pool")
def _max_pool(call: Call) -> Tensor:
    x, kernel, strides, pads, extra = _pool(call)
    return _MAXIMUM[len(kernel)](_pad(_pad(x, pads, -math.inf), extra, -math.inf), kernel, strides)


@op("l2_pool")
def _l2_pool(call: Call) -> Tensor:
    x, kernel, strides, pads, extra = _pool(call)
    squares = _AVERAGE[len(kernel)](_pad(_pad(x.square(), pads), extra), kernel, strides)
    return (squares * math.prod(kernel)).sqrt()


def _pool(call: Call) -> tuple[Tensor, list[int], list[int], list[tuple[int, int]], list[tuple[int, int]]]:
    """x, kernel, strides, padding, and what ceil_mode adds at the end so that the last window is complete."""
    x, kernel = call["x"], call.numbers("kernel_sizes")
    strides = call.numbers("strides", [1] * len(kernel))
    pads = _padding(call, x.shape[2:], kernel, strides, [1] * len(kernel))
    extra = [(0, 0)] * len(kernel)
    if call.scalar("ceil_mode", False):
        for i, (k, s, (before, after)) in enumerate(zip(kernel, strides, pads, strict=True)):
            extent = x.shape[2 + i]
            steps = math.ceil((extent + before + after - k) / s)
            if steps * s >= extent + before and before + after > 0:
                steps -= 1
            extra[i] = (0, max(steps * s + k - extent - before - after, 0))
    return x, kernel, strides, pads, extra


@op("batch_norm")
def _batch_norm(call: Call) -> Tensor:
    gamma, beta = call.get("gamma"), call.get("beta")
    return F.batch_norm(call["x"], call["mean"], call["variance"], gamma, beta, eps=float(call.scalar("epsilon", 1e-5)))


@op("instance_norm")
def _instance_norm(call: Call) -> Tensor:
    return F.instance_norm(
        call["x"], weight=call.get("gamma"), bias=call.get("beta"), eps=float(call.scalar("epsilon", 1e-5))
    )


@op("layer_norm")
def _layer_norm(call: Call) -> Tensor:
    x = call["x"]
    axes = sorted(a % x.dim() for a in call.numbers("axes", range(x.dim())))
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    normal = (x - mean) * torch.rsqrt(variance + float(call.scalar("epsilon", 1e-5)))
    extents = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    gamma, beta = call.get("gamma"), call.get("beta")
    if gamma is not None:
        normal = normal * gamma.reshape(extents)
    return normal if beta is None else normal + beta.reshape(extents)


@op("l2_norm")
def _l2_norm(call: Call) -> Tensor:
    x = call["x"]
    squares = x.square().sum(tuple(range(max(x.dim() - 3, 0), x.dim())), keepdim=True)
    return x / (squares + float(call.scalar("epsilon", 1e-6))).sqrt()


@op("local_response_norm")
def _local_response_norm(call: Call) -> Tensor:
    settings = (float(call.scalar(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("k", 1.0)))
    return F.local_response_norm(call["x"], int(call.scalar("size")), *settings)


def _upsampled(call: Call, axis: int, product: float) -> int:
    """The extent that the program declares: 10 rows times 2.3 are 23, where float32 multiplies to 22.99."""
    declared = call.operation.outputs[0].shape[axis] if call.operation.outputs[0].shape else -1
    return declared if declared == round(product) else math.floor(product)


@op("upsample_nearest_neighbor")
def _upsample_nearest(call: Call) -> Tensor:
    x = call["x"]
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        factor, extent = float(call.scalar(name, 1)), x.shape[axis]
        places = (torch.arange(_upsampled(call, axis, extent * factor)) / factor).floor().long().clamp(max=extent - 1)
        x = x.index_select(axis, places)
    return x


@op("upsample_bilinear")
def _upsample_bilinear(call: Call) -> Tensor:
    x = call["x"]
    mode = "STRICT_ALIGN_CORNERS" if call.scalar("align_corners", True) else "UNALIGN_CORNERS"
    if call.scalar("half_pixel_centers") is not None and not call.scalar("align_corners", True):
        mode = "UNALIGN_CORNERS" if call.scalar("half_pixel_centers") else "DEFAULT"
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        x = _interpolate(x, axis, _upsampled(call, axis, x.shape[axis] * float(call.scalar(name, 1))), mode)
    return x


@op("resize_bilinear")
def _resize_bilinear(call: Call) -> Tensor:
    mode = str(call.scalar("sampling_mode", "DEFAULT"))
    x = _interpolate(call["x"], -2, int(call.scalar("target_size_height", 1)), mode)
    return _interpolate(x, -1, int(call.scalar("target_size_width", 1)), mode)


@op("resize_nearest_neighbor")
def _resize_nearest(call: Call) -> Tensor:
    x = _nearest(call["x"], -2, int(call.scalar("target_size_height")), "DEFAULT")
    return _nearest(x, -1, int(call.scalar("target_size_width")), "DEFAULT")


@op("resize")
def _resize(call: Call) -> Tensor:
    x, shape, count = call["x"], call.numbers("shape"), int(call.scalar("resized_dims"))
    mode = str(call.scalar("sampling_mode", "DEFAULT"))
    linear = str(call.scalar("interpolation_mode", "LINEAR")) == "LINEAR"
    for axis in range(-count, 0):
        extent = shape[axis] or x.shape[axis]
        x = (_interpolate if linear else _nearest)(x, axis, extent, mode)
    return x


def _grid(extent: int, wanted: int, mode: str) -> Tensor:
    """Where each of the wanted samples lies on [0, extent − 1]; the formulas of MIL's resize_bilinear."""
    i = torch.arange(wanted, dtype=torch.float64)
    if mode == "ALIGN_CORNERS" and wanted == 1:
        grid = torch.full((1,), (extent - 1) / 2, dtype=torch.float64)
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        grid = i * ((extent - 1) / max(wanted - 1, 1))
    elif mode == "DEFAULT":
        grid = i * (extent / wanted)  # = (extent − extent/wanted) / (wanted − 1)
    elif mode == "OFFSET_CORNERS":
        grid = (i + 0.5) * (max(1, extent - 1) / wanted)
    elif mode == "UNALIGN_CORNERS":
        grid = (i + 0.5) * (extent / wanted) - 0.5
    else:
        raise ValueError(f"sampling_mode {mode!r}")
    return grid.clamp(0, extent - 1)


def _interpolate(x: Tensor, axis: int, wanted: int, mode: str) -> Tensor:
    grid = _grid(x.shape[axis], wanted, mode)
    low = grid.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (grid - low).to(x.dtype).reshape([-1] + [1] * (-axis - 1))
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _nearest(x: Tensor, axis: int, wanted: int, mode: str) -> Tensor:
    grid = _grid(x.shape[axis], wanted, mode)
    places = grid.floor() if mode == "DEFAULT" else (grid + 0.5).floor()
    return x.index_select(axis, places.long().clamp(max=x.shape[axis] - 1))


@op("resample")
def _resample(call: Call) -> Tensor:
    x, grid = call["x"], call["coordinates"].float()
    align, coordinates = bool(call.scalar("align_corners")), str(call.scalar("coordinates_mode"))
    if coordinates == "normalized_zero_to_one":
        grid = grid * 2 - 1
    elif coordinates == "unnormalized":
        last = torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1])
        grid, align = grid / last * 2 - 1, True
    padding: dict[str, Any] = {"constant": "zeros", "border": "border"}
    padding |= {"reflection": "reflection"} if align else {"symmetric": "reflection"}
    mode, value = str(call.scalar("padding_mode")), float(call.scalar("padding_value", 0.0))
    sampled = F.grid_sample(x - value, grid, str(call.scalar("sampling_mode")), padding[mode], align)
    return sampled + value
