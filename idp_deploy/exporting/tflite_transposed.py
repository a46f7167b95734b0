"""transposed: transposed convolutions in the two forms that TFLite has, VALID and SAME.

PyTorch crops `padding` entries off each side and adds `output_padding` at the end. TFLite's operator crops nothing
(VALID) or as much as leaves input · stride (SAME), and the converter stops at anything between. There the whole
result is computed and then cut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from idp_deploy.errors import ConversionError

aten = torch.ops.aten
_TRANSPOSED = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2, aten.conv_transpose3d.input: 3}

_DEFAULTS = (None, None, None, 1, 0, 0, 1, 1)


def crop_explicitly(module: fx.GraphModule) -> None:
    """Rewrite transposed convolutions, in place, that are neither VALID nor SAME; the numbers stay the same.

    With window k, stride s, padding p and output padding e, an axis of extent n becomes (n − 1)·s + k long, of which
    the entries from p on, (n − 1)·s + k − 2p + e of them, are the result.

    Raises:
        ConversionError: a grouped or dilated one, for which TFLite has no operator.
    """
    for node in list(module.graph.nodes):
        axes = _TRANSPOSED.get(node.target)
        if axes is None:
            continue
        x, weight, bias, stride, padding, extra = _arguments(node, axes)
        window, extents = weight.meta["val"].shape[2:], x.meta["val"].shape[2:]
        wanted = node.meta["val"].shape[2:]
        if all(
            e == 0 and (p == 0 or k - s == 2 * p) for k, s, p, e in zip(window, stride, padding, extra, strict=True)
        ):
            continue
        whole = [(n - 1) * s + k for n, s, k in zip(extents, stride, window, strict=True)]
        beyond = [max(0, p + out - size) for p, out, size in zip(padding, wanted, whole, strict=True)]
        early_bias, late_bias = (None, bias) if any(beyond) else (bias, None)  # the entries beyond have one as well
        place = {k: v for k, v in node.meta.items() if k != "val"}

        def call(operator: Any, *arguments: Any, place: dict[str, Any] = place) -> fx.Node:
            made = module.graph.call_function(operator, arguments)
            made.meta = dict(place)
            return made

        with module.graph.inserting_before(node):
            result = call(node.target, x, weight, early_bias, stride, [0] * axes)
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


def _arguments(node: fx.Node, axes: int) -> tuple[Any, ...]:
    """(input, weight, bias, stride, padding, output padding), the last three as lists of one number an axis."""
    given: tuple[Any, ...] = node.args
    x, weight, bias, stride, padding, extra, groups, dilation = (*given, *_DEFAULTS[len(given) :])
    numbers = [[v] if isinstance(v, int) else list(v) for v in (stride, padding, extra, dilation)]
    stride, padding, extra, dilation = (v * (axes // len(v)) for v in numbers)
    kind = f"{groups} groups" if groups != 1 else "dilation" if set(dilation) != {1} else ""
    if kind:
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
        raise ConversionError(
            f"TFLite has no transposed convolution with {kind} (module {stack[-1] if stack else '(root)'!r})",
            way_out="resize and convolve instead",
        )
    return x, weight, bias, stride, padding, extra
