"""What a captured graph needs before coremltools may convert it without silent faults.

coremltools 9 reads the positional arguments of an exported graph and drops keyword-only ones of several operators
(`frontend/torch/ops.py`, `gelu` and `add` among them): the tanh form of GELU becomes the exact one and
`torch.add(x, y, alpha=2)` becomes x + y. Here such calls are spelled out in plain operators; a keyword that neither
this table nor the converter understands is refused by name, since a wrong file is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from idp_deploy.errors import ConversionError

aten = torch.ops.aten

RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}

# Keywords that say where and how a tensor lies in memory, or that the converter reads itself.
_HARMLESS = {"device", "layout", "pin_memory", "memory_format", "requires_grad", "generator", "dtype", "implicit"}
_READ_BY_CONVERTER = {
    (aten.scaled_dot_product_attention, "scale"),
    (aten.scaled_dot_product_attention, "enable_gqa"),
    (aten.addmm, "alpha"),
    (aten.addmm, "beta"),
    (aten.baddbmm, "alpha"),
    (aten.baddbmm, "beta"),
    (aten.div, "rounding_mode"),
}


def prepare(module: fx.GraphModule) -> fx.GraphModule:
    """Rewrite, in place, every call whose keywords the converter would drop; the numbers stay the same.

    Raises:
        ConversionError: a keyword that changes the result and that no rewrite covers.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not node.kwargs:
            continue
        packet = getattr(node.target, "overloadpacket", None)
        rewrite = _REWRITES.get(packet)
        if rewrite is not None:
            with module.graph.inserting_before(node):
                replacement = rewrite(module.graph, node)
            if replacement is not node:
                node.replace_all_uses_with(replacement)
                module.graph.erase_node(node)
            continue
        for keyword, value in node.kwargs.items():
            if keyword in _HARMLESS or (packet, keyword) in _READ_BY_CONVERTER or value == _default(node, keyword):
                continue
            raise ConversionError(
                f"Core ML cannot hold {node.target} with {keyword}={value!r}, in {where(node)}: "
                "coremltools would drop the keyword",
                way_out="write the operation out with plain arithmetic in the model",
            )
    module.graph.lint()
    module.recompile()
    return module


def where(node: fx.Node) -> str:
    """The module path a node was traced in, for messages.

    >>> graph = fx.Graph()
    >>> where(graph.placeholder("x"))
    'the model itself'
    """
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return f"module {stack[-1]!r}" if stack else "the model itself"


def is_recurrent(module: fx.GraphModule) -> bool:
    """Whether a fused LSTM, GRU or RNN is called: coremltools converts those from a TorchScript trace only."""
    return any(node.op == "call_function" and node.target in RECURRENT for node in module.graph.nodes)


def calls(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The operator calls in execution order."""
    return (node for node in module.graph.nodes if node.op == "call_function")


def _default(node: fx.Node, keyword: str) -> Any:
    schema = getattr(node.target, "_schema", None)
    for argument in schema.arguments if schema else ():
        if argument.name == keyword:
            return argument.default_value
    return None


def _scaled_second(graph: fx.Graph, node: Any) -> Any:
    """add(x, y, alpha=a) = add(x, a · y); likewise sub; rsub(x, y, alpha=a) = sub(y, a · x)."""
    x, y = node.args[:2]
    alpha = node.kwargs.get("alpha", 1)
    if alpha == 1:
        return node
    packet = node.target.overloadpacket
    if packet is aten.rsub:
        x, y, packet = y, x, aten.sub
    scaled = _call(graph, node, aten.mul.Tensor, y, alpha) if isinstance(y, fx.Node) else y * alpha
    if not isinstance(x, fx.Node):  # number − tensor
        negated = _call(graph, node, aten.mul.Tensor, scaled, -1)
        return _call(graph, node, aten.add.Tensor, negated, x)
    return _call(graph, node, packet.Tensor, x, scaled)


def _tanh_gelu(graph: fx.Graph, node: Any) -> Any:
    """gelu(x) ≈ x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), Hendrycks and Gimpel 2016."""
    if node.kwargs.get("approximate", "none") == "none":
        return node
    x = node.args[0]
    square = _call(graph, node, aten.mul.Tensor, x, x)
    cube = _call(graph, node, aten.mul.Tensor, square, x)
    inner = _call(graph, node, aten.add.Tensor, x, _call(graph, node, aten.mul.Tensor, cube, 0.044715))
    bent = _call(graph, node, aten.tanh.default, _call(graph, node, aten.mul.Tensor, inner, math.sqrt(2 / math.pi)))
    gate = _call(graph, node, aten.add.Tensor, bent, 1.0)
    return _call(graph, node, aten.mul.Tensor, _call(graph, node, aten.mul.Tensor, x, 0.5), gate)


def _call(graph: fx.Graph, like: Any, target: Callable[..., Any], *args: Any) -> Any:
    node = graph.call_function(target, args)
    node.meta.update({key: like.meta[key] for key in ("nn_module_stack", "stack_trace") if key in like.meta})
    return node


_REWRITES: dict[Any, Callable[[fx.Graph, Any], Any]] = {
    aten.add: _scaled_second,
    aten.sub: _scaled_second,
    aten.rsub: _scaled_second,
    aten.gelu: _tanh_gelu,
}
