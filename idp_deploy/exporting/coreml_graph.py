"""What a captured graph needs before coremltools may convert it without silent faults.

coremltools 9 reads the positional arguments of an exported graph and drops keyword-only ones of several operators
(`frontend/torch/ops.py`, `gelu` and `add` among them): the tanh form of GELU becomes the exact one and
`torch.add(x, y, alpha=2)` becomes x + y. Such calls, and operators it does not know, are replaced by PyTorch's own
decompositions into plainer ones. What has none is refused by name: a wrong file is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from idp_deploy.errors import ConversionError
from idp_deploy.exporting.coreml_decompositions import DECOMPOSITIONS

aten = torch.ops.aten

RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}
_ROUNDS = 4  # a decomposition may call operators that need one themselves

# Keywords that say where and how a tensor lies in memory, and those the converter reads.
_HARMLESS = {"device", "layout", "pin_memory", "memory_format", "requires_grad", "generator", "dtype", "implicit"}
_READ = {
    (aten.scaled_dot_product_attention, "scale"),
    (aten.addmm, "alpha"),
    (aten.addmm, "beta"),
    (aten.baddbmm, "alpha"),
    (aten.baddbmm, "beta"),
    (aten.div, "rounding_mode"),
}
_MISREAD = {aten.rsub, aten.hardshrink, aten.rms_norm}  # registered, but fails on some of their forms


def prepare(module: fx.GraphModule) -> fx.GraphModule:
    """Rewrite, in place, what the converter gets wrong before any decomposition: alpha, and integers for floats."""
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        _floats_for_integers(node)
        if getattr(node.target, "overloadpacket", None) in (aten.add, aten.sub) and node.kwargs.get("alpha", 1) != 1:
            x, y = node.args
            with module.graph.inserting_before(node):
                scaled = module.graph.call_function(aten.mul.Tensor, (y, node.kwargs["alpha"]))
            scaled.meta.update({k: node.meta[k] for k in ("nn_module_stack", "stack_trace") if k in node.meta})
            node.args, node.kwargs = (x, scaled), {}
    module.graph.lint()
    module.recompile()
    return module


def lower(program: ExportedProgram, is_registered: Callable[[str], bool]) -> ExportedProgram:
    """The program in operators that the converter has and reads in full.

    Args:
        is_registered: whether the converter has an operator of this name.

    Raises:
        ConversionError: an operator that it has not and that PyTorch cannot decompose.
    """
    for _ in range(_ROUNDS):
        wrong = {node.target: node for node in calls(program.graph) if _complaint(node, is_registered)}
        table = {target: _decomposition(target) for target in wrong}
        for target, found in table.items():
            if found is None:
                raise ConversionError(
                    f"Core ML cannot hold {target} in {where(wrong[target])}: "
                    f"{_complaint(wrong[target], is_registered)}",
                    way_out="write it with plain operators, keep that part outside the model, or export to onnx",
                )
        program = program.run_decompositions(table)
        if not any(_complaint(node, is_registered) for node in calls(program.graph)):
            break
    return program


def _decomposition(target: Any) -> Callable[..., Any] | None:
    """Ours, else PyTorch's: the general table, then those of operators that are themselves compositions."""
    from torch._decomp import decomposition_table

    if target in DECOMPOSITIONS:
        return DECOMPOSITIONS[target]
    if target in decomposition_table:
        return decomposition_table[target]
    return torch.export.default_decompositions().get(target)


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
    return any(node.target in RECURRENT for node in calls(module.graph))


def calls(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operator calls in execution order."""
    return (node for node in graph.nodes if node.op == "call_function")


def _complaint(node: fx.Node, is_registered: Callable[[str], bool]) -> str:
    """Why the converter cannot be trusted with this call, or ""."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:
        return ""
    if packet in _MISREAD or not is_registered(packet.__name__):
        return "coremltools has no such operator"
    for keyword, value in node.kwargs.items():
        if keyword not in _HARMLESS and (packet, keyword) not in _READ and value != _default(node, keyword):
            return f"coremltools would drop {keyword}={value!r}"
    return ""


def _default(node: fx.Node, keyword: str) -> Any:
    for argument in getattr(node.target, "_schema").arguments:  # noqa: B009  (private, and typed as absent)
        if argument.name == keyword:
            return argument.default_value
    return None


def _floats_for_integers(node: fx.Node) -> None:
    """Number arguments of a floating-point operator as floats: the converter compares types, not values."""
    value = node.meta.get("val")
    schema = getattr(node.target, "_schema", None)
    if schema is None or not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return
    arguments = list(node.args)
    for i, declared in enumerate(schema.arguments[: len(arguments)]):
        if str(declared.type) == "number" and type(arguments[i]) is int:
            arguments[i] = float(arguments[i])  # type: ignore[arg-type]
    node.args = tuple(arguments)
