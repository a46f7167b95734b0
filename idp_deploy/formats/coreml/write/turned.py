"""What one of coremltools' passes gets wrong of tensors whose axes are moved: meetings with themselves, powers."""

from __future__ import annotations

import torch
from torch import fx
from torch.utils import _pytree as pytree

aten = torch.ops.aten

_TURNS = {aten.transpose.int, aten.permute.default, aten.t.default, aten.mT.default, aten.numpy_T.default}
_SAME = {aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.dropout.default}
_TURNING_INSIDE = {aten.einsum.default, aten.scaled_dot_product_attention.default, aten.linear.default}
_POWERS = {aten.pow.Tensor_Tensor, aten.pow.Scalar}


def needs_its_turns(graph: fx.Graph) -> bool:
    """Whether moves of axes may not be taken back in pairs, as coremltools' pass `reduce_transposes` does.

    A call that reads a tensor beside the same with its axes in other places (`x @ x.mT`) loses one of the two there,
    where the tensor had its axes moved before. A power has its exponent left where it was, while the base's axes move
    (apple/coremltools#2784).
    """
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        sources = [_unmoved(source) for source in node.all_input_nodes]
        if len({source for source, _ in sources}) < len(sources) and any(turned for _, turned in sources):
            return True
        if node.target in _POWERS:
            return True
        if node.target in _TURNING_INSIDE and len(node.all_input_nodes) < _operands(node):
            return True
    return False


def _unmoved(node: fx.Node) -> tuple[fx.Node, bool]:
    """(what a result is but for the places of its axes, whether these were moved)."""
    turned = False
    while node.target in _TURNS or node.target in _SAME:
        turned |= node.target in _TURNS
        node = node.args[0]  # type: ignore[assignment]
    return node, turned


def _operands(node: fx.Node) -> int:
    """How many tensors a call reads, each as often as it does."""
    return sum(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves((node.args, node.kwargs)))
