"""Constant factors in front of and behind a weight, which converters multiply into it.

An image that forward brings to [-1, 1] before a convolution, or a layer scale behind one: the file holds the weight
times the factor. A layer that is called several times, with a batch norm of its own behind each call, is one weight in
the model and as many, each times its norm's factor, in the file. The factors are the model's own, read from its graph,
never fitted to the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from idp_deploy.verification.reaching import fed_nodes, met, value_of

aten = torch.ops.aten
_LINEAR = (aten.linear,)
_CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution)
_SHIFTS = (aten.add, aten.sub, aten.rsub)
_FACTORS = (aten.mul, aten.div)
_TURNS = {aten.deg2rad: math.pi / 180, aten.rad2deg: 180 / math.pi}
# operators that converters say with a factor first, before they round, order, or bend
_LED: dict[Any, Callable[[fx.Node], float]] = {
    **dict.fromkeys((aten.argsort, aten.sort, aten.msort, aten.kthvalue, aten.median, aten.quantile), lambda _: -1.0),
    aten.topk: lambda _: -1.0,
    aten.exp2: lambda _: math.log(2),
    aten.round: lambda node: 10.0 ** cast(int, node.kwargs.get("decimals", 0)),
    aten.sinc: lambda _: math.pi,
    aten.special_ndtr: lambda _: math.sqrt(0.5),
}


def scaled(module: fx.GraphModule, name: str, values: np.ndarray) -> list[np.ndarray]:
    """`values` of weight `name` times the constants in front of its layer, behind it, and both (first one, then more).

    float32 arrays of the same shape with the same zeros. A weight with several uses has no one factor and gives none.
    """
    uses = _uses(module, name)
    return _scaled_in(module, uses[0], values) if len(uses) == 1 else []


def copies(module: fx.GraphModule, name: str, values: np.ndarray) -> list[list[np.ndarray]]:
    """For each of several uses of weight `name` what a file may hold for it: `values`, or those times its constants.

    Empty where the weight has one use, or one that is no layer.
    """
    uses = _uses(module, name)
    if len(uses) < 2 or not all(_is_layer(use) for use in uses):
        return []
    return [[values, *_scaled_in(module, use, values)] for use in uses]


def scaled_made(module: fx.GraphModule, name: str) -> list[np.ndarray]:
    """The same of what constants make of parameter `name`, a spectral norm say, for each layer that takes it."""
    found = []
    for node, value in met(module, name):
        layers = [user for user in node.users if _is_layer(user) and user.args[1] is node]
        found += [times for layer in layers for times in _scaled_in(module, layer, value)]
    return found


def _uses(module: fx.GraphModule, name: str) -> list[fx.Node]:
    return [user for node in module.graph.nodes if node.op == "get_attr" and node.target == name for user in node.users]


def _is_layer(node: fx.Node) -> bool:
    return _kind(node) in (*_LINEAR, *_CONVOLUTIONS) and len(node.args) >= 2


def _scaled_in(module: fx.GraphModule, layer: fx.Node, values: np.ndarray) -> list[np.ndarray]:
    """`values` as the weight of one layer."""
    if not _is_layer(layer):
        return []
    convolution = _kind(layer) in _CONVOLUTIONS
    fed = fed_nodes(module.graph)
    front = _products(module, fed, layer.args[0], convolution, backwards=True)
    behind = _products(module, fed, layer, convolution, backwards=False)
    inputs = [shaped for f in front if (shaped := _along(f, values.shape[1], 1, values.ndim)) is not None]
    outputs = [shaped for f in behind if (shaped := _along(f, values.shape[0], 0, values.ndim)) is not None]
    both = [first * last for first in inputs for last in outputs]
    return [(values * factor).astype(np.float32) for factor in (*inputs, *outputs, *both)]


def _products(
    module: fx.GraphModule, fed: set[fx.Node], start: Any, convolution: bool, *, backwards: bool
) -> list[np.ndarray]:
    """Products of the first, the first two, … constant factors from `start` on, each one number or one a channel."""
    products: list[np.ndarray] = []
    node = start
    while isinstance(node, fx.Node):
        if not backwards:
            if len(node.users) != 1:
                break
            (node,) = node.users
            if _kind(node) in _LED:
                led = np.array([_LED[_kind(node)](node)])
                return [*products, products[-1] * led if products else led]
            if _kind(node) is aten.batch_norm:  # it shifts as well: what follows scales that too
                factor = _of_norm(module, fed, node)
                return [*products, products[-1] * factor if products else factor] if factor is not None else products
        step = _step(module, fed, node, convolution)
        if step is None:
            break
        moving, factor = step
        if factor is not None:
            products.append(products[-1] * factor if products else factor)
        if not backwards and _kind(node) in _SHIFTS:
            break  # a sum behind the layer is its bias: what follows scales that too
        if backwards:
            node = moving
    return products


def _step(
    module: fx.GraphModule, fed: set[fx.Node], node: fx.Node, convolution: bool
) -> tuple[Any, np.ndarray | None] | None:
    """What moves through `node`, and its factor, None where it is shifted alone; None where it is neither."""
    kind = _kind(node)
    if kind is aten.neg:
        return node.args[0], np.array([-1.0])
    if kind in _TURNS:
        return node.args[0], np.array([_TURNS[kind]])
    if kind not in (*_SHIFTS, *_FACTORS) or len(node.args) < 2 or node.kwargs.get("alpha", 1) != 1:
        return None
    moving = [arg for arg in node.args[:2] if isinstance(arg, fx.Node) and arg in fed]
    if len(moving) != 1 or (kind is aten.div and node.args[0] is not moving[0]):
        return None
    first = node.args[0] is moving[0]
    if kind in _SHIFTS:
        turned = kind is (aten.rsub if first else aten.sub)
        return moving[0], np.array([-1.0]) if turned else None
    other = node.args[1] if first else node.args[0]
    number = value_of(module, other, {}) if isinstance(other, fx.Node) else other
    factor = _per_channel(number, node, convolution)
    if factor is None:
        return None
    return moving[0], 1 / factor if kind is aten.div else factor


def _of_norm(module: fx.GraphModule, fed: set[fx.Node], node: fx.Node) -> np.ndarray | None:
    """γ / √(σ² + ε) of a batch norm with fixed statistics, one number a channel; None where an input tells any."""
    if len(node.args) < 8 or node.args[5] is not False or not isinstance(node.args[4], fx.Node):
        return None
    if any(source in fed for source in node.all_input_nodes if source is not node.args[0]):
        return None
    variance = value_of(module, node.args[4], {})
    gamma = value_of(module, node.args[1], {}).detach().double() if isinstance(node.args[1], fx.Node) else 1.0
    factor = gamma / (variance.detach().double() + float(node.args[7])).sqrt()  # type: ignore[arg-type]
    return factor.numpy() if bool(torch.isfinite(factor).all()) and not bool((factor == 0).any()) else None


def _per_channel(value: Any, node: fx.Node, convolution: bool) -> np.ndarray | None:
    """A factor as one number or as one a channel; None where it varies along something else, or is 0 or infinite."""
    tensor = value.detach().double() if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
    if not bool(torch.isfinite(tensor).all()) or bool((tensor == 0).any()):
        return None
    result = node.meta.get("val")
    dims = result.dim() if isinstance(result, Tensor) else 4
    axis = dims - 1 if not convolution else 1
    shape = (1,) * (dims - tensor.dim()) + tuple(tensor.shape)
    if len(shape) != dims or any(extent != 1 for i, extent in enumerate(shape) if i != axis):
        return None
    return tensor.reshape(-1).numpy()


def _along(factor: np.ndarray, extent: int, axis: int, dims: int) -> np.ndarray | None:
    if factor.size not in (1, extent):
        return None
    shape = [1] * dims
    shape[axis] = factor.size
    return factor.reshape(shape)


def _kind(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)
