"""fold: batch norm of an inference graph becomes part of the layer before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from idp_deploy.capturing.lifting import attribute

_CONVOLUTIONS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv1d.padding,
    torch.ops.aten.linear.default,
    torch.ops.aten.conv_transpose1d.default,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.conv_transpose3d.input,
}
_TRANSPOSED = {
    torch.ops.aten.conv_transpose1d.default,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.conv_transpose3d.input,
}
_BATCH_NORM = torch.ops.aten.batch_norm.default


def fold_batch_norm(graph_module: fx.GraphModule) -> tuple[tuple[str, str], ...]:
    """Fold y = γ(conv(x) − μ)/√(σ² + ε) + β into the layer before it, in place; returns the folded pairs.

    Folded only where the layer's output has no other user, nor the weight, but for layers with the same norm behind
    them: a tower that runs on two inputs. Shapes: w (out, in/groups, …) is scaled along its output axis; transposed
    convolutions have w (in, out/groups, …).
    """
    graph = graph_module.graph
    folded: list[tuple[str, str]] = []
    users: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            users.setdefault(str(node.target), []).extend(node.users)
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not _BATCH_NORM or not node.users:
            continue
        arguments: tuple[Any, ...] = node.args
        layer, gamma, beta, mean, var, training, _, eps = arguments[:8]
        if training or not isinstance(layer, fx.Node) or layer.target not in _CONVOLUTIONS:
            continue
        weight_node: Any = layer.args[1]
        bias_node: Any = layer.args[2] if len(layer.args) > 2 else None
        held = (weight_node, bias_node, gamma, beta, mean, var)
        if any(isinstance(given, fx.Node) and given.op != "get_attr" for given in held):
            continue  # computed by forward
        layers = users[weight_node.target]
        norms = [_norm_after(layer, weight_node.target) for layer in layers]
        if any(norm is None or _setting(norm) != _setting(node) for norm in norms):
            continue
        weight, mean_v, var_v = (attribute(graph_module, n.target) for n in (weight_node, mean, var))
        scale = torch.rsqrt(var_v.double() + eps)
        if gamma is not None:
            scale = scale * attribute(graph_module, gamma.target).double()
        shift = -mean_v.double() * scale
        if beta is not None:
            shift = shift + attribute(graph_module, beta.target).double()
        if bias_node is not None:
            shift = shift + attribute(graph_module, bias_node.target).double() * scale
        groups: Any = (layer.args[6] if len(layer.args) > 6 else 1) if layer.target in _TRANSPOSED else None
        scaled = weight.double() * _along_outputs(scale, weight, groups)
        _assign(graph_module, weight_node.target, scaled.to(weight.dtype))
        own_bias = bias_node is not None and set(users[bias_node.target]) == set(layers)
        name = (
            bias_node.target if own_bias else f"{weight_node.target.rpartition('.')[0]}.folded_bias".removeprefix(".")
        )
        _assign(graph_module, name, shift.to(weight.dtype))
        for layer, norm in zip(layers, norms, strict=True):
            assert norm is not None
            if not own_bias:
                with graph.inserting_before(layer):
                    bias_node = graph.get_attr(name)
                if "val" in weight_node.meta:
                    bias_node.meta["val"] = shift.to(weight.dtype)
                layer.args = (*layer.args[:2], bias_node, *layer.args[3:])
            norm.replace_all_uses_with(layer)
            graph.erase_node(norm)
        folded.append((str(weight_node.target), str(gamma.target) if gamma is not None else ""))
    graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return tuple(folded)


def _norm_after(layer: fx.Node, weight: str) -> fx.Node | None:
    """The batch norm that alone reads what this layer makes with `weight`."""
    norm, *others = (*layer.users, None)
    operands: Any = layer.args
    if layer.target not in _CONVOLUTIONS or operands[1].target != weight or norm is None or any(others):
        return None
    if layer.target is torch.ops.aten.linear.default and operands[0].meta["val"].dim() != 2:
        return None  # batch norm normalises axis 1, which is not the linear layer's output axis
    return norm if norm.target is _BATCH_NORM and norm.args[0] is layer else None


def _setting(norm: fx.Node) -> tuple[Any, ...]:
    """What decides how a norm folds: the layer's kind, bias and groups, and the norm's own tensors."""
    layer: Any = norm.args[0]
    read = (*layer.args[2:3], *norm.args[1:5])
    names = [argument.target if isinstance(argument, fx.Node) else argument for argument in read]
    return (layer.target, *names, *norm.args[5:6], *norm.args[7:8], *layer.args[6:])


def _along_outputs(scale: Tensor, weight: Tensor, transposed_groups: int | None) -> Tensor:
    """`scale` of each output channel in a shape that multiplies `weight`; the groups of a transposed convolution.

    (out,) → (out, 1, …), or for w (in, out/groups, …) → (in, out/groups, 1, …): rows of a group share its outputs.
    """
    kernel = (1,) * (weight.dim() - 2)
    if transposed_groups is None:
        return scale.reshape(-1, 1, *kernel)
    inputs, outputs = weight.shape[:2]
    rows = scale.reshape(transposed_groups, 1, outputs).expand(-1, inputs // transposed_groups, -1)
    return rows.reshape(inputs, outputs, *kernel)


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
