"""Which entries of a weight meet the model's inputs: the others act on constants, and converters compute that ahead.

An attention whose query is a learned parameter multiplies it by a third of its projection: a number that no input
changes. Converters write the product and leave that third of the weight out, rightly. A weight that forward scales
or normalises meets constants first as well: there the result still has every zero, and is what a file holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from idp_deploy.capturing.lifting import attribute

aten = torch.ops.aten
# operators that hand entries on unchanged: run on the entries' numbers, they say where each one goes
_MOVES = {
    aten.alias,
    aten.chunk,
    aten.clone,
    aten.contiguous,
    aten.detach,
    aten.expand,
    aten.flatten,
    aten.index_select,
    aten.movedim,
    aten.narrow,
    aten.permute,
    aten.reshape,
    aten.select,
    aten.slice,
    aten.split,
    aten.split_with_sizes,
    aten.squeeze,
    aten.t,
    aten.transpose,
    aten.unbind,
    aten.unflatten,
    aten.unsqueeze,
    aten.view,
}
# operators that multiply by a tensor of their own: name → its place among the arguments
_FACTORS = {
    aten.mul: 1,
    aten.linear: 1,
    aten.matmul: 1,
    aten.mm: 1,
    aten.conv1d: 1,
    aten.conv2d: 1,
    aten.conv3d: 1,
    aten.batch_norm: 1,
    aten.instance_norm: 1,
    aten.layer_norm: 2,
    aten.group_norm: 2,
}
_SHAPED_LIKE = {aten.reshape_as, aten.view_as, aten.expand_as}  # of the second argument they ask for the shape alone


def reaching(module: fx.GraphModule, name: str) -> np.ndarray:
    """The entries of parameter `name` that some operator takes together with what comes from an input.

    A bool array of the parameter's shape. Entries whose every use is computed from constants alone are False.
    """
    fed = fed_nodes(module.graph)
    shape = tuple(module.get_parameter(name).shape)
    found = np.zeros(int(np.prod(shape, dtype=np.int64)), bool)
    numbers = torch.arange(found.size).reshape(shape)
    pending: list[tuple[fx.Node, Tensor]] = [
        (node, numbers) for node in module.graph.nodes if node.op == "get_attr" and node.target == name
    ]
    while pending:
        node, carried = pending.pop()
        for user in node.users:
            if user.op == "output" or user in fed:
                found[carried.reshape(-1).numpy()] = True
            elif getattr(user.target, "overloadpacket", None) in _MOVES and user.args[0] is node:
                result = user.target(carried, *user.args[1:], **user.kwargs)  # type: ignore[operator]
                pending += _results(user, result)
    return found.reshape(shape)


def made_of(module: fx.GraphModule, name: str) -> list[np.ndarray]:
    """Parameter `name` as the inputs meet it: itself, or what constants make of it entry by entry.

    float32 arrays with as many entries as the parameter, each with at least its zeros; empty where it goes into sums.
    """
    parameter = module.get_parameter(name)
    zeros = int((parameter == 0).sum())
    values = [value for _, value in met(module, name)]
    return [value for value in values if value.size == parameter.numel() and int((value == 0).sum()) >= zeros]


def left_in_sums(module: fx.GraphModule, name: str) -> float | None:
    """The share of zeros in a matrix that constants make of parameter `name` and others; None where it is no sum.

    At least as large as the parameter, and less than half as sparse: W + B·A of a LoRA that forward merges.
    """
    parameter = module.get_parameter(name)
    before = float((parameter == 0).float().mean())
    shares = [float((value == 0).mean()) for _, value in met(module, name) if value.size >= parameter.numel()]
    return min(shares) if shares and min(shares) < before / 2 else None


def met(module: fx.GraphModule, name: str) -> list[tuple[fx.Node, np.ndarray]]:
    """What inputs meet of what constants make of parameter `name`: each node with its value, a float32 array."""
    fed, known = fed_nodes(module.graph), dict[fx.Node, Any]()
    found = []
    derived = {node for node in module.graph.nodes if node.op == "get_attr" and node.target == name}
    for node in module.graph.nodes:
        if node in fed or not derived.intersection((node, *node.all_input_nodes)):
            continue
        derived.add(node)
        if any(user in fed or user.op == "output" for user in node.users):
            value = value_of(module, node, known)
            if isinstance(value, Tensor):
                found.append((node, value.detach().float().numpy()))
    return found


def silenced(module: fx.GraphModule) -> set[str]:
    """Parameters and buffers that a factor of zero keeps from the outputs, which converters leave out with its branch.

    Many nets are drawn with such factors: the last norm of every residual branch begins as zeros.
    """
    fed, known, heard = fed_nodes(module.graph), dict[fx.Node, Any](), set[fx.Node]()

    def is_zero(factor: Any) -> bool:
        constant = isinstance(factor, fx.Node) and factor not in fed
        value = value_of(module, factor, known) if constant else None
        return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.any())

    def hears(user: fx.Node, node: fx.Node) -> bool:
        kind: Any = getattr(user.target, "overloadpacket", None)
        return user in heard and (kind not in _SHAPED_LIKE or user.args[0] is node)

    for node in reversed(module.graph.nodes):
        if node.op == "output" or any(hears(user, node) for user in node.users):
            heard.add(node)
        kind: Any = getattr(node.target, "overloadpacket", None)
        place = _FACTORS.get(kind)
        if node in heard and place is not None and len(node.args) > place:
            factors = node.args[:2] if place == 1 else [node.args[place]]
            if any(is_zero(factor) for factor in factors):
                heard.remove(node)  # nothing that it is made of is heard
    names = {str(node.target): node in heard for node in module.graph.nodes if node.op == "get_attr"}
    return {name for name, is_heard in names.items() if not is_heard}


def value_of(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """What a node that no input feeds gives, its sources remembered in `known`."""
    if node not in known:
        if node.op == "get_attr":
            known[node] = attribute(module, str(node.target))
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: value_of(module, source, known))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def fed_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose value depends on an input."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in fed for source in node.all_input_nodes):
            fed.add(node)
    return fed


def _results(node: fx.Node, result: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[tuple[fx.Node, Tensor]]:
    """A node with its result; of a list, each of the nodes that pick from it with what it picks."""
    if isinstance(result, Tensor):
        return [(node, result)]
    return [
        (user, result[user.args[1]]) for user in node.users if len(user.args) == 2 and isinstance(user.args[1], int)
    ]
