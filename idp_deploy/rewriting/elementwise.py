"""Operators entry by entry, said in plainer ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.rewriting.lines import sort
from idp_deploy.rewriting.products import tensordot
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def one_hot(x: Tensor, classes: int = -1) -> Tensor | None:
    """1 at the class, 0 elsewhere, without a check of the range."""
    return None if classes < 0 else (x.unsqueeze(-1) == torch.arange(classes)).long()


def repeat(x: Tensor, repeats: list[int]) -> Tensor:
    """Copies side by side, axis after axis."""
    x = x.reshape([1] * (len(repeats) - x.dim()) + list(x.shape))
    for axis, count in enumerate(repeats):
        x = torch.cat([x] * count, axis) if count != 1 else x
    return x


def nan_to_num(x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """Numbers in the place of what is none and of ±∞, for which LiteRT's plain kernels give the largest there is."""
    if not x.is_floating_point():
        return x
    most = torch.finfo(x.dtype).max
    for beyond, number, usual in (
        (x >= most, posinf, most),
        (x <= -most, neginf, -most),
        (x != x, nan, 0.0),
    ):
        x = chosen(beyond, float(usual if number is None else number), x)
    return x


def whole_split(x: Tensor, sizes: list[int] | int, dim: int = 0) -> list[Tensor] | None:
    """Parts of which there is one alone, which litert-torch takes for a tensor."""
    whole = len(sizes) == 1 if isinstance(sizes, list) else 0 < x.shape[dim] <= sizes
    return [x.narrow(dim, 0, x.shape[dim])] if whole else None


def whole_chunk(x: Tensor, chunks: int, dim: int = 0) -> list[Tensor] | None:
    """The same by their number: `x.chunk(1)`, as the ghost batch norm of TabNet has it for few rows."""
    return whole_split(x, -(-x.shape[dim] // chunks), dim)


def high_power(x: Tensor, exponent: float) -> Tensor | None:
    """xʸ of more than four dimensions, which TFLite's operator has not."""
    return torch.pow(x.flatten(), exponent).reshape(x.shape) if x.dim() > 4 else None


def taken_from(x: Tensor, other: Any, alpha: float = 1) -> Tensor:
    """other − α·x."""
    return torch.add(torch.mul(x, -alpha), other)


def whole_taken_from(x: Tensor, other: Any, alpha: float = 1) -> Tensor | None:
    """The same of a number with a fraction less an integer, at which torch.onnx stops."""
    if x.is_floating_point() or x.is_complex() or not isinstance(other, float):
        return None
    return taken_from(x.to(torch.get_default_dtype()), other, alpha)


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


def whole_quotient(x: Any, y: Any, *, rounding_mode: str | None) -> Tensor | None:
    """x / y of integers, rounded, in integers: torch.onnx would go by way of float32, exact to 2²⁴ only."""
    numbers = [v for v in (x, y) if not isinstance(v, int)]
    if rounding_mode is None or any(not isinstance(v, Tensor) or v.is_floating_point() for v in numbers):
        return None
    return x // y if rounding_mode == "floor" else (x - torch.fmod(x, y)) // y


def chosen(condition: Tensor, x: Any, y: Any) -> Tensor:
    """torch.where with numbers spread out, which would end in a primitive that converters lack."""
    kind = next((v.dtype for v in (x, y) if isinstance(v, Tensor)), torch.result_type(x, y))
    x, y = (v if isinstance(v, Tensor) else torch.full_like(condition, v, dtype=kind) for v in (x, y))
    return torch.where(condition, x, y)


def filled_alike(x: Tensor, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor | None:
    """A tensor of another type than x, which coremltools makes of the type of x."""
    return None if dtype in (None, x.dtype) else torch.full(x.shape, value, dtype=dtype)


def _numbers_first(most: Callable[[Tensor, Tensor], Tensor]) -> Row:
    """The larger or the smaller of two, of which the one that is no number does not count."""

    def row(x: Tensor, y: Tensor) -> Tensor:
        kind = torch.result_type(x, y)
        x, y = torch.broadcast_tensors(x.to(kind), y.to(kind))
        if not kind.is_floating_point:
            return most(x, y)
        x, y = torch.where(torch.isnan(x), y, x), torch.where(torch.isnan(y), x, y)
        return most(x, y)

    return row


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor | None:
    """Powers of each entry, the highest first: (n,) → (n, N)."""
    powers = [torch.ones_like(x)]
    for _ in range(1, x.shape[0] if N is None else N):
        powers.append(powers[-1] * x)
    return torch.stack(powers if increasing else powers[::-1], -1) if N != 0 else None


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """log(eˣ + eʸ), by the larger of the two."""
    return torch.maximum(x, y) + torch.log(1 + torch.exp(-torch.abs(x - y)))


def logaddexp2(x: Tensor, y: Tensor) -> Tensor:
    """log₂(2ˣ + 2ʸ), the same way."""
    return logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)


def clamp(x: Tensor, low: Any = None, high: Any = None) -> Tensor | None:
    """Between an integer and a float: torch.onnx makes a tensor of one of them alone, and stops at the pair."""
    if low is None or high is None or isinstance(low, float) == isinstance(high, float):
        return None
    return torch.clamp(x if x.is_floating_point() else x.to(torch.get_default_dtype()), float(low), float(high))


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + e⁻ˣ)), which stays finite where the sigmoid is 0."""
    return torch.neg(torch.nn.functional.softplus(torch.neg(x)))


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """The angle of (x, y), and π where y is 0 and x negative, of which torch.onnx makes −π; −0 alone gives that."""
    straight_back = torch.logical_and(torch.logical_and(y == 0, x < 0), torch.reciprocal(y) > 0)
    return chosen(straight_back, math.pi, torch.atan2(y, x))


def rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, **_: Any) -> Tensor | None:
    """The slope in the middle, which it has outside of training."""
    return None if training else torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def _on_truth(logical: Callable[..., Tensor]) -> Row:
    return lambda *operands: logical(*operands) if all(x.dtype == torch.bool for x in operands) else None


def place_of(best: Callable[..., Tensor], x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | None:
    """The place of the largest among all entries, of which coremltools makes one for each column."""
    return best(x.flatten(), 0) if dim is None and not keepdim else None


def scaled_elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor | None:
    """With the factors that coremltools drops, as `selu` has them; None without."""
    if scale == input_scale == 1:
        return None
    below = alpha * (torch.exp(torch.clamp(x, max=0.0) * input_scale) - 1)
    return scale * (torch.relu(x) + below)


def aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The smallest and the largest, each by itself."""
    axes = list(range(x.dim())) if dim is None else [dim]
    return x.amin(axes, keepdim), x.amax(axes, keepdim)


def _of_all(most: Callable[..., Tensor]) -> Row:
    """The most of all entries, by their axes: torch.onnx wants to be told some."""

    def row(x: Tensor, dim: list[int] | tuple[int, ...] = (), keepdim: bool = False) -> Tensor | None:
        return None if dim or not x.dim() else most(x, list(range(x.dim())), keepdim)

    return row


def signbit(x: Tensor) -> Tensor:
    """Whether it is negative, or the zero of that side."""
    if not x.is_floating_point():
        return x < 0
    return torch.logical_or(x < 0, torch.logical_and(x == 0, torch.reciprocal(x) < 0))


def copysign(x: Tensor, sign: Any) -> Tensor:
    """The size of one with the sign of another."""
    size = torch.abs(x)
    negative = signbit(sign) if isinstance(sign, Tensor) else torch.full_like(x, math.copysign(1.0, sign)) < 0
    return torch.where(negative, torch.neg(size), size)


def shifted_left(x: Tensor, bits: int) -> Tensor | None:
    """Times 2 to the number of bits."""
    return x * 2 ** int(bits) if 0 <= bits < 31 else None


def shifted_right(x: Tensor, bits: int) -> Tensor | None:
    """Divided by the same and rounded down."""
    return torch.div(x, 2 ** int(bits), rounding_mode="floor") if 0 <= bits < 31 else None


def mse_loss(x: Tensor, y: Tensor, reduction: int = 1) -> Tensor:
    """Squared distances, their mean or their sum; coremltools wants to be told which."""
    apart = torch.square(x - y)
    return apart.mean() if reduction == 1 else apart.sum() if reduction == 2 else apart


def isclose(x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor | None:
    """Whether they are the same, or as near as is allowed; infinities are near to themselves alone."""
    if not x.is_floating_point() or equal_nan:
        return None
    near = torch.logical_and(torch.abs(x - y) <= atol + torch.abs(rtol * y), torch.abs(y) < torch.inf)
    return torch.logical_or(x == y, near)


def _with_a_truth(known: tuple[Row, Row]) -> Row:
    """Of truth values and one that Python knows: what comes of False, and of True."""
    return lambda x, y: known[y](x) if x.dtype == torch.bool and isinstance(y, bool) else None


def _same(x: Tensor) -> Tensor:
    return torch.logical_and(x, x)


def _never(x: Tensor) -> Tensor:
    return torch.logical_and(x, torch.logical_not(x))


def _always(x: Tensor) -> Tensor:
    return torch.logical_or(x, torch.logical_not(x))


CHOICES: dict[Any, Row] = {
    aten.where.Scalar: chosen,
    aten.where.ScalarOther: chosen,
    aten.where.ScalarSelf: chosen,
}
SHIFTED: dict[Any, Row] = {
    aten.__lshift__.Scalar: shifted_left,
    aten.__rshift__.Scalar: shifted_right,
    aten.bitwise_left_shift.Tensor_Scalar: shifted_left,
    aten.bitwise_right_shift.Tensor_Scalar: shifted_right,
}
BITS_OF_TRUTH: dict[Any, Row] = {
    aten.__and__.Tensor: _on_truth(torch.logical_and),
    aten.__or__.Tensor: _on_truth(torch.logical_or),
    aten.__xor__.Tensor: _on_truth(torch.ne),
    aten.__iand__.Tensor: _on_truth(Tensor.logical_and_),
    aten.__ior__.Tensor: _on_truth(Tensor.logical_or_),
    aten.__ixor__.Tensor: _on_truth(Tensor.ne_),
    aten.bitwise_and_.Tensor: _on_truth(Tensor.logical_and_),
    aten.bitwise_or_.Tensor: _on_truth(Tensor.logical_or_),
    aten.bitwise_xor_.Tensor: _on_truth(Tensor.ne_),
    aten.bitwise_and.Tensor: _on_truth(torch.logical_and),
    aten.bitwise_or.Tensor: _on_truth(torch.logical_or),
    aten.bitwise_xor.Tensor: _on_truth(torch.ne),
    aten.bitwise_not.default: _on_truth(torch.logical_not),
    **dict.fromkeys((aten.__and__.Scalar, aten.bitwise_and.Scalar), _with_a_truth((_never, _same))),
    **dict.fromkeys((aten.__or__.Scalar, aten.bitwise_or.Scalar), _with_a_truth((_same, _always))),
    **dict.fromkeys((aten.__xor__.Scalar, aten.bitwise_xor.Scalar), _with_a_truth((_same, torch.logical_not))),
}
PLAINER: dict[Any, Row] = {
    aten.amax.default: _of_all(torch.amax),
    aten.amin.default: _of_all(torch.amin),
    aten.aminmax.default: aminmax,
    aten.copysign.Scalar: copysign,
    aten.copysign.Tensor: copysign,
    aten.dist.default: lambda x, y, p=2: torch.linalg.vector_norm(x - y, p),
    aten.erfc.default: lambda x: 1 - torch.erf(x),
    aten.special_erfc.default: lambda x: 1 - torch.erf(x),
    aten.empty_like.default: lambda x, **how: torch.zeros_like(x, dtype=how.get("dtype")),
    aten.empty.memory_format: lambda size, **how: torch.zeros(size, dtype=how.get("dtype")),
    aten.new_empty.default: lambda x, size, **how: torch.zeros(size, dtype=how.get("dtype") or x.dtype),
    aten.fmax.default: _numbers_first(torch.maximum),
    aten.fmin.default: _numbers_first(torch.minimum),
    aten.isclose.default: isclose,
    aten.hypot.default: lambda x, y: torch.sqrt(x * x + y * y),
    aten.ldexp.Tensor: lambda x, exponent: x * torch.exp(exponent.to(x.dtype) * math.log(2)),
    aten.logaddexp.default: logaddexp,
    aten.logaddexp2.default: logaddexp2,
    aten.mse_loss.default: mse_loss,
    aten.msort.default: lambda x: sort(x, 0)[0],
    aten.rrelu.default: rrelu,
    aten.signbit.default: signbit,
    aten.sinc.default: lambda x: chosen(x == 0, 1.0, torch.sin(x * math.pi) / (x * math.pi)),
    aten.special_expit.default: torch.sigmoid,
    aten.tensordot.default: tensordot,
    aten.linalg_vander.default: lambda x, *, N=None: vander(x, N, True) if x.dim() == 1 else None,
    aten.vander.default: vander,
}
