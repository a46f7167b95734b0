"""computed: kernels, biases and factors that forward computes, where a converter takes constants alone."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.rewriting.products import is_fed
from idp_deploy.rewriting.spelling import Row, replace
from idp_deploy.rewriting.transposed import as_convolution

aten = torch.ops.aten
Rows = dict[Any, tuple[Row, Collection[int]]]  # operator → (what it computes, which arguments are to be constants)


def take_apart(module: fx.GraphModule, rows: Rows) -> None:
    """Say operators of `rows` in others, in place, where an input has a part in an argument that is to be constant."""
    for node in list(module.graph.nodes):
        row, places = rows.get(node.target, (None, ()))
        held = [node.args[place] for place in places if place < len(node.args)]
        if row is not None and any(isinstance(each, fx.Node) and is_fed(each) for each in held):
            replace(module, node, row)
    module.graph.eliminate_dead_code()
    module.recompile()


def _along_channels(factor: Tensor, axes: int) -> Tensor:
    return factor.reshape([-1] + [1] * axes)


def _bias_apart(operator: Any, x: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> Tensor:
    result: Tensor = operator(x, weight, None, *others)
    return result + _along_channels(bias, weight.dim() - 2)


def _times_and_plus(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


def layer_norm(x: Tensor, shape: list[int], gamma: Any = None, beta: Any = None, *others: Any) -> Tensor:
    """The norm, then what it is multiplied by and shifted."""
    return _times_and_plus(aten.layer_norm.default(x, shape, None, None, *others), gamma, beta)


def _channel_norm(operator: Any, x: Tensor, gamma: Any, beta: Any, mean: Any, variance: Any, *others: Any) -> Tensor:
    by_input, _, eps = others[:3]
    gamma, beta, mean, variance = (
        None if each is None else _along_channels(each, x.dim() - 2) for each in (gamma, beta, mean, variance)
    )
    x = operator(x, None, None, None, None, *others) if by_input else (x - mean) * torch.rsqrt(variance + eps)
    return _times_and_plus(x, gamma, beta)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """A slope below zero, one for all or one a channel."""
    slope = _along_channels(slope, x.dim() - 2) if slope.numel() > 1 else slope
    return torch.relu(x) - slope * torch.relu(-x)


TRANSPOSED: Rows = {
    operator: (as_convolution, {1})
    for operator in (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
}
LAYERS: Rows = {
    **{
        operator: (partial(_bias_apart, operator), {2})
        for operator in (
            aten.conv1d.default, aten.conv2d.default, aten.conv3d.default,
            aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, *TRANSPOSED,
        )
    },
    aten.layer_norm.default: (layer_norm, {2, 3}),
    aten.batch_norm.default: (partial(_channel_norm, aten.batch_norm.default), {1, 2, 3, 4}),
    aten.instance_norm.default: (partial(_channel_norm, aten.instance_norm.default), {1, 2, 3, 4}),
    aten.prelu.default: (prelu, {1}),
}  # fmt: skip
