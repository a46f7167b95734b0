"""lift: a captured graph as an ExportedProgram again, without tracing the model a second time.

Converters take an ExportedProgram, in which weights are inputs of the graph; what `capture` does to a graph is simpler
where they are its attributes. Tracing the rewritten graph once more would cost a fifth of the converter's own time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn
from torch._export.verifier import Verifier
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree

_KNOWN = {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR, InputKind.USER_INPUT}


def inline(
    module: fx.GraphModule,
    before: fx.Node,
    body: fx.GraphModule,
    operands: Iterable[Any],
    prefix: str,
    hold: Callable[[str, Any], object],
) -> tuple[Any, list[fx.Node]]:
    """Copy the operators of a graph into another.

    Args:
        before: of which node. operands: what stands for its inputs.
        prefix: of the names of what it holds: constants, or further bodies. hold: (name, value) keeps one in `module`.

    Returns:
        What the body returns, and every operator that was copied.
    """
    arguments, copies, results = iter(operands), dict[fx.Node, Any](), None
    made = []
    with module.graph.inserting_before(before):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(arguments)
            elif node.op == "output":
                results = fx.node.map_arg(node.args[0], copies.__getitem__)
            else:
                copies[node] = module.graph.node_copy(node, copies.__getitem__)
                made.append(copies[node])
            if node.op == "get_attr":
                name = f"{prefix}_{node.target}".replace(".", "_")
                hold(name, attribute(body, str(node.target)))
                copies[node].target = name
    return results, made


def lift(module: fx.GraphModule, program: ExportedProgram) -> ExportedProgram | None:
    """`module`, made from `program` by rewrites, with its tensors as the graph's first inputs.

    Inputs, outputs and free extents are those of `program`. None where only tracing tells what it becomes: branches,
    inputs and results that are no tensors, calls that a rewrite added without saying what they give.
    """
    signature = program.graph_signature
    known = all(s.kind in _KNOWN and isinstance(s.arg, TensorArgument) for s in signature.input_specs)
    known &= all(s.kind is OutputKind.USER_OUTPUT for s in signature.output_specs)
    known &= all("val" in node.meta for node in module.graph.nodes if node.op == "call_function")
    results = _pytree.tree_leaves(module.graph.output_node().args[0])
    known &= all(isinstance(result, fx.Node) for result in results)
    reads = [node for node in module.graph.nodes if node.op == "get_attr"]
    tensors = {str(node.target): attribute(module, str(node.target)) for node in reads}
    fake = _fake_mode(module.graph)
    if not known or fake is None or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return None
    graph, inputs = fx.Graph(), []
    state: dict[str, Tensor] = {}
    placed: dict[str, fx.Node] = {}
    names = {str(node.target) for node in module.graph.nodes if node.op == "placeholder"}
    for i, (target, tensor) in enumerate(tensors.items()):
        trained = isinstance(tensor, nn.Parameter)
        name = re.sub(r"\W", "_", f"{'p' if trained else 'b'}.{target}")  # "stage-1.weight" is no name of Python's
        name = f"{name}_{i}" if name in names else name
        names.add(name)
        placed[target] = node = graph.placeholder(name)
        node.meta["val"] = fake.from_tensor(tensor, static_shapes=True)
        kind = InputKind.PARAMETER if trained else InputKind.BUFFER
        inputs.append(InputSpec(kind, TensorArgument(node.name), target, None if trained else True))
        state[target] = tensor
    copies: dict[fx.Node, fx.Node] = {node: placed[str(node.target)] for node in reads}
    for node in module.graph.nodes:
        if node in copies or node.op == "output":
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
        own = getattr(node.target, "_opname", node.name)  # files hold names: a short one each, by the operator
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, own, node.type)
        copies[node].meta = {**node.meta}
        if node.op == "placeholder":
            copies[node].name = str(node.target)  # a graph does not give a name of Python's own, such as "input"
            inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(copies[node].name), None))
    graph.output(tuple(copies[node] for node in results))
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(copies[node].name), None) for node in results]
    return ExportedProgram(
        nn.Module(),
        graph,
        ExportGraphSignature(inputs, outputs),
        state,
        program.range_constraints,
        program.module_call_graph,
        program.example_inputs,
        verifiers=program.verifiers,
    )


def in_aten(program: ExportedProgram) -> ExportedProgram:
    """The program in PyTorch's "ATEN" dialect, for one whose operators are such already: no pass takes any apart.

    Raises:
        SpecViolationError: an operator writes into what it is given.
    """
    return ExportedProgram(
        program.graph_module,
        program.graph,
        program.graph_signature,
        program.state_dict,
        program.range_constraints,
        program.module_call_graph,
        program.example_inputs,
        program.constants,
        verifiers=[Verifier],
    )


def attribute(module: nn.Module, name: str) -> Any:
    """The parameter, buffer or other attribute with this dotted name."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def _fake_mode(graph: fx.Graph) -> FakeTensorMode | None:
    """The mode in which every extent of the graph was traced, free ones among them."""
    values = (node.meta.get("val") for node in graph.nodes if node.op != "get_attr")
    return next((value.fake_mode for value in values if isinstance(value, FakeTensor)), None)
