"""spelling: operators that a converter lacks or gets wrong, said in other operators, in place in a captured graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from idp_deploy.capturing.lifting import attribute, inline

aten = torch.ops.aten
Row = Callable[..., Any]  # takes the operator's arguments; None where this call can stay as it is


def spell_out(module: fx.GraphModule, rows: Mapping[Any, Row]) -> None:
    """Replace every call of an operator in `rows` by what its row computes; the numbers stay the same."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in rows:
            replace(module, node, rows[node.target])
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def replace(module: fx.GraphModule, node: fx.Node, row: Row) -> Any:
    """Put what `row` computes in the place of one call, in place; the nodes that give it, None where it stays."""
    sources = node.all_input_nodes
    fake = next((v.fake_mode for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, FakeTensor)), None)
    said = True

    def body(*tensors: Tensor) -> Any:
        nonlocal said
        given = dict(zip(sources, tensors, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
        result = row(*args, **kwargs)
        said = result is not None
        return result if said else ()

    traced = make_fx(body, pre_dispatch=True)(*(_value(module, source, fake) for source in sources))
    if not said:
        return None
    place: dict[str, Any] = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
    results, made = inline(module, node, traced, sources, node.name, module.register_buffer)
    for step in made:
        step.meta.update(place)
        value = step.meta.get("val")
        if fake is not None and isinstance(value, FakeTensor) and value.fake_mode is not fake:  # a row's own constant
            with fake:
                step.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    if isinstance(results, fx.Node):
        results.meta = {**node.meta, **{k: v for k, v in results.meta.items() if k == "val"}}
        node.replace_all_uses_with(results)
    else:
        for user in list(node.users):  # getitem: the operator returns a tuple
            assert user.target is operator.getitem
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            module.graph.erase_node(user)
    module.graph.erase_node(node)
    return results


def _value(module: fx.GraphModule, node: fx.Node, fake: FakeTensorMode | None) -> Any:
    if node.op == "get_attr" and fake is not None:
        return fake.from_tensor(attribute(module, str(node.target)), static_shapes=True)
    return node.meta["val"]


def one_hot(x: Tensor, classes: int = -1) -> Tensor | None:
    """1 at the class, 0 elsewhere, without a check of the range."""
    return None if classes < 0 else (x.unsqueeze(-1) == torch.arange(classes)).long()


def repeat(x: Tensor, repeats: list[int]) -> Tensor:
    """Copies side by side, axis after axis."""
    x = x.reshape([1] * (len(repeats) - x.dim()) + list(x.shape))
    for axis, count in enumerate(repeats):
        x = torch.cat([x] * count, axis) if count != 1 else x
    return x


def reshaped(x: Tensor, shape: list[int]) -> Tensor:
    """The same numbers in another shape, wherever they lie: a view is refused of what was laid channel-last."""
    return x.reshape(shape)


def high_power(x: Tensor, exponent: float) -> Tensor | None:
    """xʸ of more than four dimensions, which TFLite's operator has not."""
    return torch.pow(x.flatten(), exponent).reshape(x.shape) if x.dim() > 4 else None


def taken_from(x: Tensor, other: Any, alpha: float = 1) -> Tensor:
    """other − α·x."""
    return torch.add(torch.mul(x, -alpha), other)


def image_taken_from(x: Tensor, other: Any, alpha: float = 1) -> Tensor | None:
    """The same of an image or a sequence of channels alone."""
    return taken_from(x, other, alpha) if x.dim() >= 3 else None


def less(x: Any, y: Any, alpha: float = 1) -> Tensor | None:
    """x − α·y of an x that is spread along axes of y."""
    return image_taken_from(y, x, alpha) if _spread(x, y) else None


def share_of(x: Any, y: Any) -> Tensor | None:
    """x / y of an x that is spread along axes of y."""
    return torch.mul(torch.reciprocal(y), x) if _spread(x, y) and y.is_floating_point() else None


def _spread(x: Any, y: Any) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.numel() < y.numel()


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...] | None:
    """Rows of a table summed, averaged or compared, of bags that are all of one length: a matrix of ids."""
    bags = offsets.shape[0]
    if include_last_offset or indices.dim() != 1 or indices.shape[0] % bags or (mode == 2 and padding_idx is not None):
        return None
    ids = indices.reshape(bags, -1)
    rows = torch.nn.functional.embedding(ids, weight)
    lengths: Any = ids.shape[1]
    if padding_idx is not None and padding_idx >= 0:
        counted = (ids != padding_idx).to(rows.dtype).unsqueeze(-1)
        rows, lengths = rows * counted, counted.sum(1).clamp(min=1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(bags, -1, 1)
    result = rows.amax(1) if mode == 2 else rows.sum(1) / lengths if mode == 1 else rows.sum(1)
    return result, result, result, result


def circular_pad(x: Tensor, pads: list[int], mode: str = "constant", value: float | None = None) -> Tensor | None:
    """What lies at the other end, set beside each end."""
    if mode != "circular" or min(pads) < 0:
        return None
    for i, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        axis, extent = -1 - i, x.shape[-1 - i]
        parts = [x.narrow(axis, extent - before, before), x, x.narrow(axis, 0, after)]
        x = torch.cat([part for part in parts if part.shape[axis]], axis)
    return x


def whole_quotient(x: Any, y: Any, *, rounding_mode: str | None) -> Tensor | None:
    """x / y of integers, rounded, in integers: torch.onnx would go by way of float32, exact to 2²⁴ only."""
    numbers = [v for v in (x, y) if not isinstance(v, int)]
    if rounding_mode is None or any(not isinstance(v, Tensor) or v.is_floating_point() for v in numbers):
        return None
    return x // y if rounding_mode == "floor" else (x - torch.fmod(x, y)) // y


def avg_pool_by(
    x: Tensor,
    window: list[int],
    stride: list[int] | None = None,
    padding: tuple[int, ...] | list[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor | None:
    """Sums over windows divided by a number of the caller's, which torch.onnx drops: means, times what they lack."""
    if divisor is None or ceil_mode:
        return None
    entries = math.prod(window) if len(window) == 2 else window[0] ** 2
    return torch.nn.functional.avg_pool2d(x, window, stride or None, list(padding)) * (entries / divisor)


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


def adaptive_avg_pool3d(x: Tensor, size: list[int]) -> Tensor:
    """The mean of each window, axis after axis."""
    for axis, wanted in zip((-3, -2, -1), size, strict=True):
        spans = windows(x.shape[axis], wanted)
        x = torch.cat([x.narrow(axis, a, b - a).mean(axis, keepdim=True) for a, b in spans], axis)
    return x


def windows(extent: int, wanted: int) -> list[tuple[int, int]]:
    """Where adaptive pooling looks: [start, end) for each result.

    >>> windows(7, 3)
    [(0, 3), (2, 5), (4, 7)]
    """
    return [(i * extent // wanted, -(-(i + 1) * extent // wanted)) for i in range(wanted)]


def cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor | None:
    """Distances between all rows of x and all rows of y, for the common norms."""
    apart = x.unsqueeze(-2) - y.unsqueeze(-3)
    if p == 2.0:
        return apart.square().sum(-1).sqrt()
    return apart.abs().sum(-1) if p == 1.0 else apart.abs().amax(-1) if p == float("inf") else None


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """xᵀ·W·y for each output's W: (…, a), (…, b), (out, a, b) → (…, out), as two products of matrices."""
    outputs, a, b = weight.shape
    turned = torch.nn.functional.linear(y, weight.reshape(outputs * a, b)).reshape(*y.shape[:-1], outputs, a)
    result = (turned * x.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


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


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Places along the last axis first, the smallest as the largest of what is negated; values by their places.

    Of values alone litert-torch makes a sort, for which LiteRT has no kernel.
    """
    turned = x.transpose(dim, -1)
    places = (turned if largest else -turned).topk(k).indices
    return turned.gather(-1, places).transpose(dim, -1), places.transpose(dim, -1)


def sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """As many of the largest as there are."""
    return topk(x, x.shape[dim], dim, descending)


def _stable_sort(x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    return sort(x, dim, descending)


ORDERS: dict[Any, Row] = {
    aten.topk.default: topk,
    aten.sort.default: sort,
    aten.sort.stable: _stable_sort,
    aten.argsort.default: lambda x, dim=-1, descending=False: sort(x, dim, descending)[1],
    aten.argsort.stable: lambda x, *, stable, dim=-1, descending=False: sort(x, dim, descending)[1],
}
SUMS_OF_PRODUCTS: dict[Any, Row] = {
    aten.cdist.default: cdist,
    aten.bilinear.default: bilinear,
    aten.col2im.default: col2im,
}


def diff(x: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor | None:
    """Each entry less the one before it."""
    if n != 1:
        return None
    parts = [part for part in (prepend, x, append) if part is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else x
    before, after = x.narrow(dim, 0, x.shape[dim] - 1), x.narrow(dim, 1, x.shape[dim] - 1)
    return before ^ after if x.dtype == torch.bool else after - before


def chosen(condition: Tensor, x: Any, y: Any) -> Tensor:
    """torch.where with numbers spread out, which would end in a primitive that converters lack."""
    kind = next((v.dtype for v in (x, y) if isinstance(v, Tensor)), torch.result_type(x, y))
    x, y = (v if isinstance(v, Tensor) else torch.full_like(condition, v, dtype=kind) for v in (x, y))
    return torch.where(condition, x, y)


def filled_alike(x: Tensor, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor | None:
    """A tensor of another type than x, which coremltools makes of the type of x."""
    return None if dtype in (None, x.dtype) else torch.full(x.shape, value, dtype=dtype)


def _on_truth(logical: Callable[..., Tensor]) -> Row:
    return lambda *operands: logical(*operands) if all(x.dtype == torch.bool for x in operands) else None


def cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor | None:
    """Products of 2, 4, 8, … neighbours, with 1 before the first."""
    if not x.dim() or not x.is_floating_point() or dtype not in (None, x.dtype):
        return None
    turned, reach = x.transpose(dim, -1), 1
    while reach < turned.shape[-1]:
        before = torch.nn.functional.pad(turned.narrow(-1, 0, turned.shape[-1] - reach), (reach, 0), value=1.0)
        turned, reach = turned * before, 2 * reach
    return turned.transpose(dim, -1)


def logcumsumexp(x: Tensor, dim: int) -> Tensor | None:
    """Sums of 2, 4, 8, … neighbours of what the logarithms are of, with next to nothing before the first."""
    if not x.dim() or not x.is_floating_point():
        return None
    turned, reach = x.transpose(dim, -1), 1
    while reach < turned.shape[-1]:
        before = turned.narrow(-1, 0, turned.shape[-1] - reach)
        before = torch.nn.functional.pad(before, (reach, 0), value=torch.finfo(torch.float16).min)
        most, apart = torch.maximum(turned, before), torch.abs(turned - before)
        turned, reach = most + torch.log(1 + torch.exp(-apart)), 2 * reach
    return turned.transpose(dim, -1)


def searchsorted(
    sorted: Tensor,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor | None:
    """How many of the last axis of `sorted` lie before x: (…, n), (…, m) → (…, m); or (n), any → any."""
    if not isinstance(x, Tensor) or sorter is not None:
        return None
    ordered, places = sorted.unsqueeze(-2), x.unsqueeze(-1)
    before = ordered <= places if right or side == "right" else ordered < places
    return before.to(torch.int32).sum(-1).to(torch.int32 if out_int32 else torch.int64)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """log(eˣ + eʸ), by the larger of the two."""
    return torch.maximum(x, y) + torch.log(1 + torch.exp(-torch.abs(x - y)))


def rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, **_: Any) -> Tensor | None:
    """The slope in the middle, which it has outside of training."""
    return None if training else torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def tensordot(x: Tensor, y: Tensor, dims: list[int], others: list[int]) -> Tensor:
    """A product of matrices: what is summed over comes last in x, first in y."""
    dims, others = [d % x.dim() for d in dims], [d % y.dim() for d in others]
    left = [d for d in range(x.dim()) if d not in dims]
    right = [d for d in range(y.dim()) if d not in others]
    inner = math.prod(x.shape[d] for d in dims)
    product = x.permute(left + dims).reshape(-1, inner) @ y.permute(others + right).reshape(inner, -1)
    return product.reshape([x.shape[d] for d in left] + [y.shape[d] for d in right])


PLAINER: dict[Any, Row] = {
    aten.hypot.default: lambda x, y: torch.sqrt(x * x + y * y),
    aten.logaddexp.default: logaddexp,
    aten.msort.default: lambda x: sort(x, 0)[0],
    aten.rrelu.default: rrelu,
    aten.sinc.default: lambda x: chosen(x == 0, 1.0, torch.sin(x * math.pi) / (x * math.pi)),
    aten.special_expit.default: torch.sigmoid,
    aten.tensordot.default: tensordot,
}
ALONG_A_LINE: dict[Any, Row] = {
    aten.cumprod.default: cumprod,
    aten.logcumsumexp.default: logcumsumexp,
    aten.searchsorted.Tensor: searchsorted,
    aten.bucketize.Tensor: lambda x, bins, **how: searchsorted(bins, x, **how),
}
BITS_OF_TRUTH: dict[Any, Row] = {
    aten.__and__.Tensor: _on_truth(torch.logical_and),
    aten.__or__.Tensor: _on_truth(torch.logical_or),
    aten.__xor__.Tensor: _on_truth(torch.ne),
    aten.bitwise_and.Tensor: _on_truth(torch.logical_and),
    aten.bitwise_or.Tensor: _on_truth(torch.logical_or),
    aten.bitwise_xor.Tensor: _on_truth(torch.ne),
    aten.bitwise_not.default: _on_truth(torch.logical_not),
}
