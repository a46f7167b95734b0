"""transposed: transposed convolutions in the forms that a converter has.

PyTorch crops `padding` entries off each side and adds `output_padding` at the end. TFLite's operator crops nothing
(VALID) or as much as leaves input · stride (SAME), and its converter stops at anything between; coremltools stops where
more is added than was cropped. There the whole result is computed and then cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.errors import ConversionError

aten = torch.ops.aten
_TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}
_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_MOST_GROUPS = 32  # that go one by one
_DEFAULTS = (None, None, None, 1, 0, 0, 1, 1)

Held = Callable[[int, int, int, int], bool]  # (window, stride, padding, output padding) of one axis


def held_by_tflite(window: int, stride: int, padding: int, extra: int) -> bool:
    """VALID or SAME."""
    return extra == 0 and (padding == 0 or window - stride == 2 * padding)


def held_by_coreml(window: int, stride: int, padding: int, extra: int) -> bool:
    """Nothing beyond what the operator computes."""
    return extra <= padding


def held_by_coreml_in_volumes(window: int, stride: int, padding: int, extra: int) -> bool:
    """Nothing added at the end."""
    return extra == 0


def refuse_grouped_and_dilated(module: fx.GraphModule) -> None:
    """ConversionError where groups or dilation are left in a transposed convolution: TFLite has no such operator."""
    for node in module.graph.nodes:
        if node.target not in _TRANSPOSED:
            continue
        groups, dilation = _arguments(node)[6:]
        kind = f"{groups} groups" if groups != 1 else "dilation" if set(dilation) != {1} else ""
        if kind:
            stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
            raise ConversionError(
                f"TFLite has no transposed convolution with {kind} (module {stack[-1] if stack else '(root)'!r})",
                way_out="resize and convolve instead",
            )


def refuse_integer_volumes(module: fx.GraphModule) -> None:
    """ConversionError where a transposed convolution has three dimensions: a product rounds integers again."""
    for node in module.graph.nodes:
        if node.target is aten.conv_transpose3d.input:
            paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
            place = paths[-1] if paths else "(root)"
            raise ConversionError(
                f"TFLite has no transposed convolution of volumes in int8 (module {place!r})",
                way_out="quantize with --scheme int8-weights, which keeps activations float",
            )


def crop_explicitly(module: fx.GraphModule, held: Held, held_in_volumes: Held | None = None) -> None:
    """Rewrite transposed convolutions, in place, of which an axis is not `held`; the numbers stay the same.

    `held_in_volumes` says so of those of three dimensions, where they are held otherwise.

    With window k, dilation d, stride s, padding p and output padding e, an axis of extent n becomes
    (n − 1)·s + d·(k − 1) + 1 long; the result is that from entry p on, 2p − e entries shorter.
    """
    for node in list(module.graph.nodes):
        if node.target not in _TRANSPOSED:
            continue
        x, weight, bias, stride, padding, extra, groups, dilation = _arguments(node)
        window, extents = weight.meta["val"].shape[2:], x.meta["val"].shape[2:]
        wanted, axes = node.meta["val"].shape[2:], len(window)
        if all(map(held_in_volumes if axes == 3 and held_in_volumes else held, window, stride, padding, extra)):
            continue
        whole = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(extents, stride, dilation, window, strict=True)]
        beyond = [max(0, p + out - size) for p, out, size in zip(padding, wanted, whole, strict=True)]
        early_bias, late_bias = (None, bias) if any(beyond) else (bias, None)  # the entries beyond have one as well
        place = {k: v for k, v in node.meta.items() if k != "val"}

        def call(operator: Any, *arguments: Any, place: dict[str, Any] = place) -> fx.Node:
            made = module.graph.call_function(operator, arguments)
            made.meta = dict(place)
            return made

        none = [0] * axes
        with module.graph.inserting_before(node):
            result = call(node.target, x, weight, early_bias, stride, none, none, groups, dilation)
            if any(beyond):
                pads = [extent for size in reversed(beyond) for extent in (0, size)]
                result = call(aten.constant_pad_nd.default, result, pads)
            for axis in range(axes):
                result = call(aten.slice.Tensor, result, axis + 2, padding[axis], padding[axis] + wanted[axis])
            if late_bias is not None:
                result = call(aten.add.Tensor, result, call(aten.reshape.default, late_bias, [-1] + [1] * axes))
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        module.graph.erase_node(node)
    module.recompile()


def in_other_layers(x: Tensor, weight: Tensor, bias: Tensor | None = None, *others: Any) -> Tensor | None:
    """A transposed convolution in other layers: TFLite has none in three dimensions, in groups or with dilation.

    Where windows lie side by side, a linear layer of channels; else a convolution with the kernel turned around over
    the entries with zeros between them. Groups of several channels go one by one. None where TFLite has one, and of
    more groups than is sensible.
    """
    groups, dilation = _lists([*others, *_DEFAULTS[3 + len(others) :]], weight.dim() - 2)[3:]
    plain = groups == 1 and set(dilation) == {1} and weight.dim() < 5
    return None if plain else as_convolution(x, weight, bias, *others)


def as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *others: Any) -> Tensor | None:
    """The same of any; None of more groups than is sensible."""
    stride, padding, extra, groups, dilation = _lists([*others, *_DEFAULTS[3 + len(others) :]], weight.dim() - 2)
    axes = weight.dim() - 2
    apart = groups > 1 and (axes == 3 or groups < len(weight))
    if apart and groups > _MOST_GROUPS:
        return None
    single = x.dim() == axes + 1
    x = x.unsqueeze(0) if single else x
    if apart:
        parts = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        result = torch.cat([_whole(part, kernel, stride, padding, extra, dilation) for part, kernel in parts], 1)
    else:
        result = _whole(x, weight, stride, padding, extra, dilation, groups)
    result = result if bias is None else result + bias.reshape(-1, *[1] * axes)
    return result.squeeze(0) if single else result


def _whole(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], extra: list[int], dilation: list[int],
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """The transposed convolution without its bias, of one group or with one channel a group."""
    window, axes = list(weight.shape[2:]), weight.dim() - 2
    plain = groups == 1 and set(dilation) == {1}
    if plain and stride == window and not any(padding) and not any(extra):
        return _side_by_side(x, weight)
    for axis in range(axes):
        x = _spread_out(x, axis + 2, stride[axis])
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, window, padding, strict=True)]
    borders = [(r, r + e) for r, e in zip(reach, extra, strict=True)]
    for axis, (before, behind) in enumerate(borders):  # a border below nothing is a cut
        x = x.narrow(axis + 2, max(0, -before), x.shape[axis + 2] + min(0, before) + min(0, behind))
    x = torch.constant_pad_nd(x, [max(0, extent) for border in reversed(borders) for extent in border])
    turned = weight.flip(list(range(2, axes + 2)))
    turned = turned.transpose(0, 1) if groups == 1 else turned.flatten(0, 1).unsqueeze(1)
    return _CONVOLUTIONS[axes](x, turned, None, 1, 0, dilation, groups)


def _spread_out(x: Tensor, axis: int, stride: int) -> Tensor:
    """`stride` − 1 zeros between neighbours along one axis."""
    if stride == 1:
        return x
    before, count, behind = list(x.shape[:axis]), x.shape[axis], list(x.shape[axis + 1 :])
    apart = x.reshape(math.prod(before), count, 1, math.prod(behind))  # the operator that pads has five axes at most
    spread = torch.constant_pad_nd(apart, [0, 0, 0, stride - 1]).reshape(*before, count * stride, *behind)
    return spread.narrow(axis, 0, (count - 1) * stride + 1)


def _side_by_side(x: Tensor, weight: Tensor) -> Tensor:
    """What windows that neither overlap nor leave gaps give, in order: (N, C, *axes) and (C, out, *window)."""
    window, axes, outputs = weight.shape[2:], weight.dim() - 2, weight.shape[1]
    rows = torch.matmul(x.movedim(1, -1), weight.flatten(1)).unflatten(-1, (outputs, *window))
    order = [0, axes + 1, *(place for axis in range(axes) for place in (axis + 1, axes + 2 + axis))]
    size = [n * k for n, k in zip(x.shape[2:], window, strict=True)]
    return rows.permute(order).reshape(x.shape[0], outputs, *size)


def _lists(numbers: list[Any], axes: int) -> tuple[Any, ...]:
    """(stride, padding, output padding, groups, dilation) with one number an axis."""

    def spread(given: Any) -> list[int]:
        given = [given] if isinstance(given, int) else list(given)
        return given * (axes // len(given))

    return (*map(spread, numbers[:3]), numbers[3], spread(numbers[4]))


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """(input, weight, bias, stride, padding, output padding, groups, dilation): lists of one number an axis."""
    axes = _TRANSPOSED[node.target]
    given: list[Any] = [*node.args, *_DEFAULTS[len(node.args) :]]
    return (*given[:3], *_lists(given[3:], axes))
