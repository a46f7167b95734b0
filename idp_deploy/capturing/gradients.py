"""Forwards that take gradients themselves, forces of energies say, as the operators that their way back is made of."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import decomposition_table
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx


def takes_gradients(module: nn.Module, example_inputs: tuple[Any, ...]) -> bool:
    """Whether forward keeps something for a backward pass where nobody asked for one; functorch refuses to be seen."""
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    try:
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            module(*example_inputs)
    except Exception as error:  # its own; whether it can be captured is not asked here
        return "saved tensor hooks" in str(error)
    return bool(kept)


def goes_back(program: ExportedProgram) -> bool:
    """Whether operators of backward passes are in it, or in the regions where gradients are on."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    return any(_is_way_back(node.target) for graph in graphs for node in graph.nodes)


def _is_way_back(target: Any) -> bool:
    return "backward" in str(target)


def _ways_back() -> dict[Any, Any]:
    """What operators of backward passes are made of, and norms, of which these read the statistics."""
    norms = (torch.ops.aten.native_layer_norm.default, torch.ops.aten.native_group_norm.default)
    apart = {op: made for op, made in decomposition_table.items() if _is_way_back(op) or op in norms}
    return {**apart, torch.ops.aten.convolution_backward.default: _convolution_backward}


def write_out_gradients(module: nn.Module, example_inputs: tuple[Any, ...]) -> bool:
    """Let forward compute, in place, what it does by plain operators; whether it took gradients and now takes none.

    The operators are those for the extents of the example.
    """
    if "forward" in vars(module) or not takes_gradients(module, example_inputs):
        return False

    def call(state: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        return torch.func.functional_call(module, state, inputs)

    try:
        traced = make_fx(call, decomposition_table=_ways_back(), tracing_mode="fake")(_state(module), example_inputs)
    except Exception:  # whatever keeps forward from being followed is told of the model as it is
        return False
    _name_convolutions(traced)
    module.forward = MethodType(lambda self, *inputs: traced(_state(self), inputs), module)
    return True


def _name_convolutions(traced: fx.GraphModule) -> None:
    """Convolutions by the names that layers have, in place: rewrites and converters go by these."""
    aten: Any = torch.ops.aten
    for node in traced.graph.nodes:
        if node.target is aten.convolution.default:
            x, weight, bias, stride, padding, dilation, transposed, extra, groups = node.args
            name = f"conv_transpose{len(stride)}d" if transposed else f"conv{len(stride)}d"
            packet = getattr(aten, name)
            node.target = packet.input if transposed and len(stride) > 1 else packet.default
            more = (extra, groups, dilation) if transposed else (dilation, groups)
            node.args = (x, weight, bias, stride, padding, *more)
    traced.recompile()


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, extra: list[int], groups: int, wanted: list[bool],
) -> Any:  # fmt: skip
    """Of what a convolution takes: a transposed one, which adds what strides left over; of a transposed one a plain."""
    if wanted != [True, False, False]:
        return NotImplemented
    axes = range(x.dim() - 2)
    if transposed:
        return (
            torch.convolution(gradient, weight, None, stride, padding, dilation, False, [0] * len(axes), groups),
            None,
            None,
        )
    reach = [
        (gradient.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[i + 2] - 1) + 1
        for i in axes
    ]
    left = [x.shape[i + 2] - reach[i] for i in axes]
    return torch.convolution(gradient, weight, None, stride, padding, dilation, True, left, groups), None, None
