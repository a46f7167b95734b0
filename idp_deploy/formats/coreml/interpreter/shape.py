"""Shape, indexing and rearranging rows of the reference interpreter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.formats.coreml.interpreter.call import Call, Row, adding_to

ROWS: dict[str, Row] = {}
op = adding_to(ROWS)


@op("reshape")
def _reshape(call: Call) -> Tensor:
    x = call["x"]
    # 0 copies the input's extent, −1 takes what is left
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(call.numbers("shape"))])


@op("transpose")
def _transpose(call: Call) -> Tensor:
    return call["x"].permute(call.numbers("perm"))


@op("expand_dims")
def _expand_dims(call: Call) -> Tensor:
    x, axes = call["x"], call.numbers("axes")
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@op("squeeze")
def _squeeze(call: Call) -> Tensor:
    x = call["x"]
    if call.get("axes") is None:
        return x.squeeze()
    return x.squeeze(tuple(call.numbers("axes")))


@op("flatten2d")
def _flatten2d(call: Call) -> Tensor:
    x = call["x"]
    return x.reshape(math.prod(x.shape[: int(call.scalar("axis", 1)) % x.dim()]), -1)


@op("concat")
def _concat(call: Call) -> Tensor:
    values, axis = call["values"], int(call.scalar("axis"))
    if not values[0].dim():  # numbers, of which the converter makes shapes
        return torch.stack(values)
    if not call.scalar("interleave", False):
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@op("stack")
def _stack(call: Call) -> Tensor:
    return torch.stack(call["values"], int(call.scalar("axis")))


@op("split")
def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call["x"], int(call.scalar("axis"))
    if call.get("split_sizes") is not None:
        return tuple(x.split(call.numbers("split_sizes"), axis))
    return tuple(x.split(x.shape[axis] // int(call.scalar("num_splits")), axis))


@op("tile")
def _tile(call: Call) -> Tensor:
    return call["x"].repeat(call.numbers("reps"))


@op("reverse")
def _reverse(call: Call) -> Tensor:
    x = call["x"]
    return x.flip(call.numbers("axes", range(x.dim())))


@op("reverse_sequence")
def _reverse_sequence(call: Call) -> Tensor:
    axis, batch = int(call.scalar("seq_axis", 0)), int(call.scalar("batch_axis", 0))
    x = call["x"].movedim((batch, axis), (0, 1)).clone()
    for i, length in enumerate(call.numbers("lengths")):
        x[i, :length] = x[i, :length].flip(0)
    return x.movedim((0, 1), (batch, axis))


@op("slice_by_index")
def _slice_by_index(call: Call) -> Tensor:
    x = call["x"]
    rank = x.dim()
    begin, end = call.numbers("begin"), call.numbers("end")
    stride = call.numbers("stride", [1] * rank)
    from_edge, to_edge, squeeze = (
        call.numbers(name, [0] * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    squeezed = []
    for axis in range(rank):
        extent = x.shape[axis]
        if squeeze[axis]:
            x = x.narrow(axis, begin[axis] % extent, 1)
            squeezed.append(axis)
            continue
        first = None if from_edge[axis] else begin[axis]
        last = None if to_edge[axis] else end[axis]
        places = range(extent)[slice(first, last, stride[axis])]
        x = x.index_select(axis, torch.tensor(list(places), dtype=torch.long))
    return x.squeeze(tuple(squeezed)) if squeezed else x


@op("slice_by_size")
def _slice_by_size(call: Call) -> Tensor:
    x = call["x"]
    for axis, (begin, size) in enumerate(zip(call.numbers("begin"), call.numbers("size"), strict=True)):
        begin %= max(x.shape[axis], 1)
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


@op("slice_update")
def _slice_update(call: Call) -> Tensor:
    x, update = call["x"].clone(), call["update"]
    rank = x.dim()
    begin, end, stride = call.numbers("begin"), call.numbers("end"), call.numbers("stride", [1] * rank)
    from_edge, to_edge, squeeze = (
        call.numbers(name, [0] * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    where: list[Any] = [
        begin[i] if squeeze[i] else slice(None if from_edge[i] else begin[i], None if to_edge[i] else end[i], stride[i])
        for i in range(rank)
    ]
    x[tuple(where)] = update
    return x


@op("sliding_windows")
def _sliding_windows(call: Call) -> Tensor:
    x, axis = call["x"], int(call.scalar("axis")) % call["x"].dim()
    return x.unfold(axis, int(call.scalar("size")), int(call.scalar("stride", 1))).movedim(-1, axis + 1)


@op("crop")
def _crop(call: Call) -> Tensor:
    x, (top, bottom), (left, right) = call["x"], call.numbers("crop_height"), call.numbers("crop_width")
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@op("pad")
def _pad(call: Call) -> Tensor:
    x, pads, mode = call["x"], call.numbers("pad"), str(call.scalar("mode", "constant"))
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    if mode == "constant":
        value = call.scalar("constant_val", 0)
        return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=value)
    for axis, (before, after) in zip(range(x.dim() - len(pairs), x.dim()), pairs, strict=True):
        x = x.index_select(axis, _mirrored(x.shape[axis], before, after, mode))
    return x


def _mirrored(extent: int, before: int, after: int, mode: str) -> Tensor:
    places = torch.arange(-before, extent + after)
    if mode == "replicate":
        return places.clamp(0, extent - 1)
    if mode != "reflect" or max(before, after) > extent - 1:
        raise ValueError(f"pad mode {mode!r} by {max(before, after)} of {extent}")
    return (extent - 1) - ((extent - 1) - places.abs()).abs()


@op("gather")
def _gather(call: Call) -> Tensor:
    x, indices = call["x"], call["indices"].long()
    axis, batch = int(call.scalar("axis", 0)) % x.dim(), int(call.scalar("batch_dims", 0))
    indices = _wrapped(indices, x.shape[axis])
    if batch:
        flat_x = x.reshape(-1, *x.shape[batch:])
        flat_i = indices.reshape(-1, *indices.shape[batch:])
        rows = [r.index_select(axis - batch, i.reshape(-1)) for r, i in zip(flat_x, flat_i, strict=True)]
        result = torch.stack(rows)
    else:
        result = x.index_select(axis, indices.reshape(-1))
    return result.reshape(*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])


def _wrapped(indices: Tensor, extent: int) -> Tensor:
    """Negative indices count from the end; beyond the end is an error, as memory would be."""
    if indices.numel() and (int(indices.max()) >= extent or int(indices.min()) < -extent):
        raise IndexError(f"index {int(indices.max())} or {int(indices.min())} of {extent}")
    return torch.where(indices < 0, indices + extent, indices)


@op("gather_along_axis")
def _gather_along_axis(call: Call) -> Tensor:
    x, axis = call["x"], int(call.scalar("axis", 0))
    return torch.take_along_dim(x, _wrapped(call["indices"].long(), x.shape[axis]), axis)


@op("gather_nd")
def _gather_nd(call: Call) -> Tensor:
    x, indices, batch = call["x"], call["indices"].long(), int(call.scalar("batch_dims", 0))
    if batch:
        flat_x, flat_i = x.reshape(-1, *x.shape[batch:]), indices.reshape(-1, *indices.shape[batch:])
        rows = torch.stack([r[tuple(i.unbind(-1))] for r, i in zip(flat_x, flat_i, strict=True)])
        return rows.reshape(*x.shape[:batch], *rows.shape[1:])
    return x[tuple(indices.unbind(-1))]


@op("scatter")
def _scatter(call: Call) -> Tensor:
    data, axis = call["data"], int(call.scalar("axis", 0))
    indices, updates = _wrapped(call["indices"].long(), data.shape[axis]), call["updates"].to(data.dtype)
    axis %= data.dim()
    moved = updates.flatten(axis, axis + indices.dim() - 1) if indices.dim() else updates.unsqueeze(axis)
    flat = indices.reshape(-1)
    where: list[Any] = [1] * data.dim()
    where[axis] = -1
    return _combine(data, axis, flat.reshape(where).expand_as(moved), moved, str(call.scalar("mode", "add")))


@op("scatter_along_axis")
def _scatter_along_axis(call: Call) -> Tensor:
    data, axis = call["data"], int(call.scalar("axis", 0))
    indices = _wrapped(call["indices"].long(), data.shape[axis])
    return _combine(data, axis, indices, call["updates"].to(data.dtype), str(call.scalar("mode", "add")))


def _combine(data: Tensor, axis: int, indices: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, indices, updates)
    reductions = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}
    if mode == "sub":
        updates, mode = -updates, "add"
    return data.scatter_reduce(axis, indices, updates, reductions[mode])


@op("scatter_nd")
def _scatter_nd(call: Call) -> Tensor:
    data, indices, updates = call["data"], call["indices"].long(), call["updates"].to(call["data"].dtype)
    mode = str(call.scalar("mode", "add"))
    if mode not in ("add", "update", "sub"):
        raise ValueError(f"mode {mode!r}")
    places = tuple(indices.unbind(-1))
    return data.index_put(places, -updates if mode == "sub" else updates, accumulate=mode != "update")


@op("topk")
def _topk(call: Call) -> tuple[Tensor, ...]:
    x, axis = call["x"], int(call.scalar("axis", -1))
    # stable, so that equal values come in the order of their places
    values, places = torch.sort(x, dim=axis, descending=not call.scalar("ascending", False), stable=True)
    count = int(call.scalar("k", 1))
    count = x.shape[axis] if count == -1 else count
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@op("argsort")
def _argsort(call: Call) -> Tensor:
    ascending = bool(call.scalar("ascending", False))
    return torch.argsort(call["x"], dim=int(call.scalar("axis", -1)), descending=not ascending, stable=True)


@op("band_part")
def _band_part(call: Call) -> Tensor:
    x, lower, upper = call["x"], int(call.scalar("lower", -1)), int(call.scalar("upper", -1))
    x = x if lower < 0 else x.triu(-lower)
    return x if upper < 0 else x.tril(upper)


@op("fill")
def _fill(call: Call) -> Tensor:
    value = call.get("value")
    return torch.full(call.numbers("shape"), 0.0) if value is None else value.expand(call.numbers("shape"))


@op("fill_like")
def _fill_like(call: Call) -> Tensor:
    return call["value"].expand(call["ref_tensor"].shape)


@op("shape")
def _shape(call: Call) -> Tensor:
    return torch.tensor(call["x"].shape, dtype=torch.int32)


@op("range_1d")
def _range_1d(call: Call) -> Tensor:
    return torch.arange(call.scalar("start"), call.scalar("end"), call.scalar("step"))


@op("one_hot")
def _one_hot(call: Call) -> Tensor:
    size, axis = int(call.scalar("one_hot_vector_size")), int(call.scalar("axis", -1))
    hot = F.one_hot(_wrapped(call["indices"].long(), size), size).movedim(-1, axis).bool()
    return torch.where(hot, call.get("on_value", torch.tensor(1)), call.get("off_value", torch.tensor(0)))


@op("non_zero")
def _non_zero(call: Call) -> Tensor:
    return call["x"].nonzero()


@op("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Tensor:
    return F.pixel_shuffle(call["x"], int(call.scalar("upscale_factor")))


@op("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Tensor:
    return F.pixel_unshuffle(call["x"], int(call.scalar("downscale_factor")))


@op("depth_to_space")
def _depth_to_space(call: Call) -> Tensor:
    x, b = call["x"], int(call.scalar("block_size"))
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@op("space_to_depth")
def _space_to_depth(call: Call) -> Tensor:
    x, b = call["x"], int(call.scalar("block_size"))
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)
