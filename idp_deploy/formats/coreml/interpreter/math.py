"""Elementwise, activation, comparison and reduction rows of the reference interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.formats.coreml.interpreter.call import TYPES, Call, Row, adding_to

ROWS: dict[str, Row] = {}
op = adding_to(ROWS)

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": lambda x: x.clamp(0, 6),
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
    "floor_div": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    # integers divide towards zero, as the reference says
    "real_div": lambda x, y: torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
}

_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "reduce_mean": lambda x, d, k: x.mean(d, k),
    "reduce_sum": lambda x, d, k: x.sum(d, k),
    "reduce_max": lambda x, d, k: x.amax(d, k),
    "reduce_min": lambda x, d, k: x.amin(d, k),
    "reduce_l1_norm": lambda x, d, k: x.abs().sum(d, k),
    "reduce_l2_norm": lambda x, d, k: x.square().sum(d, k).sqrt(),
    "reduce_log_sum": lambda x, d, k: x.sum(d, k).log(),
    "reduce_log_sum_exp": lambda x, d, k: x.logsumexp(d, k),
    "reduce_sum_square": lambda x, d, k: x.square().sum(d, k),
    "reduce_prod": lambda x, d, k: _product(x, d, k),
}


def _unary(kind: str) -> Callable[[Call], Tensor]:
    return lambda call: _UNARY[kind](call["x"])


def _binary(kind: str) -> Callable[[Call], Tensor]:
    return lambda call: _BINARY[kind](*_same_type(call["x"], call["y"]))


def _reduction(kind: str) -> Callable[[Call], Tensor]:
    def row(call: Call) -> Tensor:
        x = call["x"]
        axes = call.numbers("axes", range(x.dim()))
        return _REDUCTIONS[kind](x, tuple(a % x.dim() for a in axes), bool(call.scalar("keep_dims", False)))

    return row


ROWS.update({kind: _unary(kind) for kind in _UNARY})
ROWS.update({kind: _binary(kind) for kind in _BINARY})
ROWS.update({kind: _reduction(kind) for kind in _REDUCTIONS})


def _same_type(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    kind = torch.promote_types(x.dtype, y.dtype)
    return x.to(kind), y.to(kind)


def _product(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keep)
    return x


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A scalar, or one entry a channel along axis 1."""
    return parameter if parameter.dim() == 0 else parameter.reshape(-1, *[1] * (x.dim() - 2))


@op("clip")
def _clip(call: Call) -> Tensor:
    return call["x"].clamp(call["alpha"], call["beta"])


@op("rsqrt")
def _rsqrt(call: Call) -> Tensor:
    return torch.rsqrt(call["x"] + call.scalar("epsilon", 1e-12))


@op("log")
def _log(call: Call) -> Tensor:
    return torch.log(call["x"] + call.scalar("epsilon", 1e-45))


@op("inverse")
def _inverse(call: Call) -> Tensor:
    return 1 / (call["x"] + call.scalar("epsilon", 1e-4))


@op("threshold")
def _threshold(call: Call) -> Tensor:
    return torch.maximum(call["x"], call["alpha"])


@op("thresholded_relu")
def _thresholded_relu(call: Call) -> Tensor:
    return torch.where(call["x"] >= call["alpha"], call["x"], torch.zeros(()))


@op("clamped_relu")
def _clamped_relu(call: Call) -> Tensor:
    x, alpha, beta = call["x"], call["alpha"], call["beta"]
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


@op("leaky_relu")
def _leaky_relu(call: Call) -> Tensor:
    return torch.where(call["x"] >= 0, call["x"], call["alpha"] * call["x"])


@op("prelu")
def _prelu(call: Call) -> Tensor:
    x = call["x"]
    return torch.where(x >= 0, x, _per_channel(call["alpha"], x) * x)


@op("elu")
def _elu(call: Call) -> Tensor:
    return torch.where(call["x"] > 0, call["x"], call["alpha"] * torch.expm1(call["x"]))


@op("sigmoid_hard")
def _sigmoid_hard(call: Call) -> Tensor:
    return (call["alpha"] * call["x"] + call["beta"]).clamp(0, 1)


@op("linear_activation")
def _linear_activation(call: Call) -> Tensor:
    return call["alpha"] * call["x"] + call["beta"]


@op("scaled_tanh")
def _scaled_tanh(call: Call) -> Tensor:
    return call["alpha"] * torch.tanh(call["beta"] * call["x"])


@op("softplus_parametric")
def _softplus_parametric(call: Call) -> Tensor:
    x = call["x"]
    return _per_channel(call["alpha"], x) * F.softplus(_per_channel(call["beta"], x) * x)


@op("gelu")
def _gelu(call: Call) -> Tensor:
    x, mode = call["x"], call.scalar("mode", "EXACT")
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"mode {mode!r}")


@op("softmax")
def _softmax(call: Call) -> Tensor:
    return torch.softmax(call["x"], int(call.scalar("axis", -1)))


@op("cast")
def _cast(call: Call) -> Tensor:
    words = {"fp16": "float16", "fp32": "float32"}
    dtype = str(call["dtype"])
    return call["x"].to(TYPES[words.get(dtype, dtype)])


@op("reduce_argmax")
def _argmax(call: Call) -> Tensor:
    return call["x"].argmax(int(call.scalar("axis", -1)), bool(call.scalar("keep_dims", False)))


@op("classify")
def _classify(call: Call) -> tuple[Any, Tensor]:
    """The name of the likeliest class, and the scores of all in the order of their names in the file."""
    scores, classes = call["probabilities"], call["classes"]
    likeliest = classes[int(scores.reshape(-1).argmax())]
    return (likeliest if isinstance(classes, Tensor) else np.array(likeliest)), scores


@op("reduce_argmin")
def _argmin(call: Call) -> Tensor:
    return call["x"].argmin(int(call.scalar("axis", -1)), bool(call.scalar("keep_dims", False)))


@op("select")
def _select(call: Call) -> Tensor:
    a, b = _same_type(call["a"], call["b"])
    return torch.where(call["cond"].bool(), a, b)


@op("cumsum")
def _cumsum(call: Call) -> Tensor:
    x, axis = call["x"], int(call.scalar("axis", 0))
    if call.scalar("reverse", False):
        x = x.flip(axis)
    total = x.cumsum(axis)
    if call.scalar("exclusive", False):
        total = total - x
    return total.flip(axis) if call.scalar("reverse", False) else total


@op("linear")
def _linear(call: Call) -> Tensor:
    return F.linear(call["x"], call["weight"], call.get("bias"))


@op("matmul")
def _matmul(call: Call) -> Tensor:
    x, y = call["x"], call["y"]
    if call.scalar("transpose_x", False):
        x = x.transpose(-1, -2)
    if call.scalar("transpose_y", False):
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


@op("einsum")
def _einsum(call: Call) -> Tensor:
    return torch.einsum(str(call["equation"]), *call["values"])


@op("scaled_dot_product_attention")
def _attention(call: Call) -> Tensor:
    query, key, value, mask = call["query"], call["key"], call["value"], call.get("attn_mask")
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1) @ value


@op("quantize")
def _quantize(call: Call) -> Tensor:
    x, scale, zero = _affine(call)
    dtype = str(call["output_dtype"])
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    return torch.clamp(torch.round(x / scale) + zero, low, high)


@op("dequantize")
def _dequantize(call: Call) -> Tensor:
    x, scale, zero = _affine(call)
    return (x - zero) * scale


def _affine(call: Call) -> tuple[Tensor, Tensor, Any]:
    x, scale, zero = call.get("input").float(), call["scale"], call.get("zero_point")
    zero = torch.zeros(()) if zero is None else zero.float()
    axis = call.scalar("axis")
    if axis is not None and scale.dim() == 1:
        along = [1] * x.dim()
        along[int(axis)] = -1
        scale, zero = scale.reshape(along), zero.reshape(along) if zero.dim() else zero
    return x, scale, zero
