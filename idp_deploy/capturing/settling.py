"""What a trace holds that no converter should see: views of a whole, norms by kept statistics, buffers written to.

The numbers stay the same; a model whose answer depends on the calls before it is refused by the buffer's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.nn.modules import transformer

from idp_deploy.capturing.attending import attend_to_nothing
from idp_deploy.capturing.functional import apart_from_others, source_of, written_operands
from idp_deploy.capturing.known import solve
from idp_deploy.capturing.wholes import take_wholes
from idp_deploy.errors import ConversionError

aten = torch.ops.aten
_OBSERVERS = ("fake_quant", "activation_post_process")  # of torch.ao.quantization
_OBSERVED = "it is quantization-aware training's: give the float model, which idp-deploy quantizes itself"
_WRITTEN = "write into it while self.training alone, or make it an input, and an output that the caller hands in again"
_FILLED = {
    aten.ones_like: 1,
    aten.zeros_like: 0,
    aten.new_ones: 1,
    aten.new_zeros: 0,
    aten.full_like: None,
    aten.new_full: None,
}
_LISTED = {aten.einsum.default: 1, aten.stack.default: 0}  # operators → where their list of tensors is
_WHOLLY = ("copy_", "zero_", "fill_")  # of what was there before nothing is left


@contextmanager
def masks_as_given() -> Iterator[None]:
    """Inside, nn.Transformer takes its masks as they are, and does not look whether one happens to be causal.

    It looks at the numbers in it, which a trace has not; a mask that is given counts either way.
    """
    before = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = before


@contextmanager
def distributions_as_given() -> Iterator[None]:
    """Inside, torch.distributions takes its parameters and values as they are, and does not look whether they may be.

    It looks at the numbers in them, which a trace has not; where one may not be, a call of the model itself says so.
    """
    kind = torch.distributions.Distribution
    before = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(before)


@contextmanager
def covariances_as_given() -> Iterator[None]:
    """Inside, torch.cov and torch.corrcoef are written out: they ask whether what they divide by is positive."""
    kind = torch.Tensor
    own = torch.cov, kind.cov, torch.corrcoef, kind.corrcoef

    def cov(x: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
        if fweights is not None or aweights is not None or x.is_complex():
            return own[0](x, correction=correction, fweights=fweights, aweights=aweights)
        rows = x.reshape(-1, x.shape[-1]).to(torch.result_type(x, 1.0))
        apart = rows - rows.mean(1, keepdim=True)
        found = apart @ apart.T / max(0, x.shape[-1] - correction)
        return found.reshape([]) if x.dim() < 2 else found

    def corrcoef(x: Any) -> Any:
        if x.is_complex() or x.dim() < 2:
            return own[2](x)
        found = cov(x)
        size = found.diagonal().sqrt()
        return (found / size.unsqueeze(1) / size).clamp(-1, 1)

    torch.cov, kind.cov, torch.corrcoef, kind.corrcoef = cov, cov, corrcoef, corrcoef  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.cov, kind.cov, torch.corrcoef, kind.corrcoef = own  # type: ignore[method-assign]


@contextmanager
def casts_as_given() -> Iterator[None]:
    """Inside, a module that is cast or moved to where it is stays as it is: `self.router = self.router.to(x.dtype)`.

    A trace has tensors of its own kind for its weights, which `Module.to` cannot put in their place.
    """
    before = torch.nn.Module._apply

    def applied(module: torch.nn.Module, change: Any, recurse: bool = True) -> Any:
        held = [*module.parameters(recurse), *module.buffers(recurse)]
        stays = all((x.dtype, x.device) == (y.dtype, y.device) for x in held for y in [change(x)])
        return module if stays else before(module, change, recurse)

    torch.nn.Module._apply = applied  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module._apply = before  # type: ignore[method-assign]


def settle(module: fx.GraphModule) -> None:
    """Rewrite, in place, what converters drop, refuse or misread.

    Raises:
        ConversionError: forward writes into a buffer, and its answer depends on what is in there.
    """
    _forget_counters(module.graph)
    apart_from_others(module.graph)
    written = {source_of(operand) for node in module.graph.nodes for operand in written_operands(node)}
    take_wholes(module.graph, written)
    _fill(module.graph, written)
    solve(module)
    attend_to_nothing(module)
    for node in list(module.graph.nodes):
        node.meta.pop("from_node", None)  # a history that every later trace would copy, and no converter asks for
        if node.target in (aten.alias.default, torch.ops.prims.view_of.default) or _is_idle_dropout(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target is aten._assert_tensor_metadata.default:  # of a cast; there is no word for it
            module.graph.erase_node(node)
        elif node.target in (aten.add.Tensor, aten.sub.Tensor) and node.kwargs.get("alpha", 1) != 1:
            _multiply_first(node)
        elif node.target in (aten.squeeze.dim, aten.squeeze.dims) and _stays(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target is aten.cat.default:
            _leave_out_empty(node)
        elif node.target in _LISTED:
            _of_one_kind(node, _LISTED[node.target])
        elif node.target is aten.instance_norm.default and not node.args[5]:  # coremltools measures nonetheless
            node.target = aten.batch_norm.default
    module.graph.lint()
    module.recompile()


def _fill(graph: fx.Graph, written: set[fx.Node]) -> None:
    """What is filled with one number in the shape of another tensor, without that tensor where the shape is fixed.

    The way back of a gradient begins with ones in the shape of its result: where the layer in front of them is linear
    nothing behind them depends on an input, nor does a file hold that layer.
    """
    for node in list(graph.nodes):
        packet, value = getattr(node.target, "overloadpacket", None), node.meta.get("val")
        if packet not in _FILLED or node in written or not isinstance(value, torch.Tensor) or value.is_complex():
            continue
        number = node.args[-1] if _FILLED[packet] is None else _FILLED[packet]
        if isinstance(number, bool | int | float) and all(isinstance(extent, int) for extent in value.shape):
            node.target, node.args = aten.full.default, (list(value.shape), number)
            node.kwargs = {"dtype": value.dtype, "pin_memory": False}
    graph.eliminate_dead_code()


def _is_idle_dropout(node: fx.Node) -> bool:
    """Whether it gives what it takes, as outside of training: a node that every pass and every trace would carry."""
    return node.target is aten.dropout.default and node.args[2] is False


def _stays(node: fx.Node) -> bool:
    """Whether all axes that are to go stay, being longer than 1: an ONNX file with such a squeeze does not load.

    A number has no axis, and torch lets it be squeezed.
    """
    source, axes = node.args
    shape = source.meta["val"].shape  # type: ignore[union-attr]
    extents = [shape[axis] for axis in ([axes] if isinstance(axes, int) else axes)] if shape else []  # type: ignore[union-attr]
    return all(isinstance(extent, int) and extent != 1 for extent in extents)


def _leave_out_empty(node: fx.Node) -> None:
    """What is joined without the parts that hold no entry: a slice may run out of them."""
    parts: Any = node.args[0]
    sizes = [part.meta["val"].numel() for part in parts]
    held = [part for part, size in zip(parts, sizes, strict=True) if not isinstance(size, int) or size]
    if held and len(held) < len(parts):
        node.args = (held, *node.args[1:])


def _of_one_kind(node: fx.Node, place: int) -> None:
    """Whole numbers and floats in one list, the former as floats first: torch.onnx would hand both to one operator."""
    wanted, operands = node.meta["val"].dtype, []
    for operand in node.args[place]:  # type: ignore[union-attr]
        given = operand.meta["val"]  # type: ignore[union-attr]
        if given.dtype != wanted:
            with node.graph.inserting_before(node):
                operand = node.graph.call_function(aten.to.dtype, (operand, wanted))
            operand.meta = {**node.meta, "val": given.to(wanted)}
        operands.append(operand)
    node.args = (*node.args[:place], operands, *node.args[place + 1 :])


def _multiply_first(node: fx.Node) -> None:
    """x + α·y with the product spelled out."""
    x, y = node.args
    with node.graph.inserting_before(node):
        scaled = node.graph.call_function(aten.mul.Tensor, (y, node.kwargs["alpha"]))
    scaled.meta = {k: node.meta[k] for k in ("nn_module_stack", "stack_trace") if k in node.meta}
    if isinstance(y, fx.Node) and "val" in y.meta:
        scaled.meta["val"] = y.meta["val"]
    node.args, node.kwargs = (x, scaled), {}


def _forget_counters(graph: fx.Graph) -> None:
    """Take out what is written into buffers that no answer depends on; refuse the others."""
    writes: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        for written in written_operands(node):
            source = source_of(written)
            if source.op == "get_attr":
                writes.setdefault(str(source.target), []).append(node)
    for name, nodes in writes.items():
        read = [node for node in graph.nodes if node.op == "get_attr" and node.target == name]
        if _starts_anew(nodes[0], read):
            continue
        if _reaches_the_end(read):
            observed = any(part in name for part in _OBSERVERS)
            raise ConversionError(
                f"forward writes into the buffer '{name}', and its answer depends on it: a file keeps nothing between "
                "two calls",
                way_out=_OBSERVED if observed else _WRITTEN,
            )
    for nodes in writes.values():
        for node in reversed(nodes):
            if not node.users:
                graph.erase_node(node)
    graph.eliminate_dead_code()


def _starts_anew(first: fx.Node, read: list[fx.Node]) -> bool:
    """Whether a call overwrites all that the one before it left, before it reads any of it."""
    name = getattr(first.target, "_opname", "")
    whole = name in _WHOLLY and first.args[0] in read and not (name == "copy_" and first.args[1] in read)
    order = {node: place for place, node in enumerate(first.graph.nodes)}
    return whole and all(order[user] >= order[first] for node in read for user in node.users)


def _reaches_the_end(read: list[fx.Node]) -> bool:
    """Whether an output comes from these nodes, be it by way of other buffers."""
    seen, frontier = set(read), list(read)
    while frontier:
        node = frontier.pop()
        if node.op == "output":
            return True
        more = set(node.users)
        for written in written_operands(node):
            source = source_of(written)
            more |= {other for other in node.graph.nodes if other.op == "get_attr" and other.target == source.target}
        frontier += more - seen
        seen |= more
    return False
