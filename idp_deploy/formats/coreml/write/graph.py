"""What a captured graph needs before coremltools may convert it without silent faults.

coremltools 9 reads the positional arguments of an exported graph and drops keyword-only ones of several operators
(`frontend/torch/ops.py`, `gelu` among them): the tanh form of GELU becomes the exact one. Such calls, and operators it
does not know, are replaced by PyTorch's own decompositions into plainer ones. What has none is refused by name: a
wrong file is worse than none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from idp_deploy.capturing.lifting import in_aten
from idp_deploy.capturing.recurrences import RECURRENT
from idp_deploy.errors import ConversionError
from idp_deploy.formats.coreml.write.cells import spell_out_cells
from idp_deploy.formats.coreml.write.decompositions import DECOMPOSITIONS, VARIANCES, rows_at
from idp_deploy.rewriting.batches import UNBATCHED
from idp_deploy.rewriting.bits import LOW_BITS
from idp_deploy.rewriting.complexes import without_complex
from idp_deploy.rewriting.compositions import COMPOSITIONS, drop_casts
from idp_deploy.rewriting.computed import LAYERS, TRANSPOSED, take_apart
from idp_deploy.rewriting.constants import fold_constants
from idp_deploy.rewriting.counting import WHOLE_NUMBERS
from idp_deploy.rewriting.diagonals import DIAGONALS
from idp_deploy.rewriting.elementwise import (
    CHOICES,
    PLAINER,
    SHIFTED,
    filled_alike,
    place_of,
    scaled_elu,
)
from idp_deploy.rewriting.experts import EXPERTS
from idp_deploy.rewriting.images import BY_DIVISORS, SMOOTHED, adaptive_avg_pool3d, linear, means
from idp_deploy.rewriting.indexing import PLACES, RANKS, bordered
from idp_deploy.rewriting.lines import ALONG_A_LINE, STABLE, diff
from idp_deploy.rewriting.masked import choose_for_masks
from idp_deploy.rewriting.placing import MEMORY
from idp_deploy.rewriting.pooling import DILATED, LARGEST, put_back
from idp_deploy.rewriting.products import (
    SUMS_OF_PRODUCTS,
    VECTORS,
    embedding_bag,
    spell_out_bags,
    with_heads_repeated,
)
from idp_deploy.rewriting.ranks import pick_before_ordering, within
from idp_deploy.rewriting.repeats import REPEATS, count_what_is_bounded
from idp_deploy.rewriting.roots import divide_by_roots, square_by_products
from idp_deploy.rewriting.scattering import PUT, index_add, scatter_reduce
from idp_deploy.rewriting.segments import SEGMENTS
from idp_deploy.rewriting.solving import SOLVING
from idp_deploy.rewriting.special import SPECIAL
from idp_deploy.rewriting.spelling import Row, spell_out
from idp_deploy.rewriting.transposed import crop_explicitly, held_by_coreml, held_by_coreml_in_volumes
from idp_deploy.rewriting.truths import MOVED_AS_NUMBERS
from idp_deploy.rewriting.volumes import norm_in_groups
from idp_deploy.rewriting.whole import OF_A_NUMBER, RELU

aten = torch.ops.aten

_RANK = 5
_ROUNDS = 4  # a decomposition may call operators that need one themselves

WAY_OUT = "write it with plain operators or keep that part outside the model"
# Keywords that say where and how a tensor lies in memory, and those the converter reads.
_HARMLESS = {"device", "layout", "pin_memory", "memory_format", "requires_grad", "generator", "dtype", "implicit"}
_READ = {
    (aten.scaled_dot_product_attention, "scale"),
    (aten.addmm, "alpha"),
    (aten.addmm, "beta"),
    (aten.baddbmm, "alpha"),
    (aten.baddbmm, "beta"),
    (aten.div, "rounding_mode"),
    (aten.einsum, "path"),  # an order of the sums, no other sum
}
_SPELLED: dict[Any, Row] = {
    aten.adaptive_avg_pool3d.default: adaptive_avg_pool3d,
    aten.elu.default: scaled_elu,
    aten.embedding_bag.padding_idx: embedding_bag,
    aten.pad.default: bordered,
    aten.scatter_reduce.two: scatter_reduce,
    aten.index.Tensor: rows_at,
    aten.index_add.default: index_add,
    aten.diff.default: diff,
    aten.argmax.default: partial(place_of, torch.argmax),
    aten.argmin.default: partial(place_of, torch.argmin),
    aten.full_like.default: filled_alike,
    aten.group_norm.default: norm_in_groups,
    aten.scaled_dot_product_attention.default: with_heads_repeated,
    aten.reciprocal.default: DECOMPOSITIONS[aten.reciprocal.default],
    aten.ones_like.default: partial(filled_alike, value=1),
    aten.zeros_like.default: partial(filled_alike, value=0),
    aten.upsample_linear1d.vec: linear,
    aten.upsample_bilinear2d.vec: linear,
    **CHOICES,
    **COMPOSITIONS,
    **ALONG_A_LINE,
    **LOW_BITS,
    **BY_DIVISORS,
    aten.avg_pool3d.default: partial(means, 3, borders_too=True),
    **DIAGONALS,
    **DILATED,
    **EXPERTS,
    **SHIFTED,
    **LARGEST,
    **PLACES,
    **PLAINER,
    **PUT,
    **RANKS,
    **REPEATS,
    **SMOOTHED,
    **SEGMENTS,
    **SOLVING,
    **SPECIAL,
    **STABLE,
    **SUMS_OF_PRODUCTS,
    **VARIANCES,
    **VECTORS,
    **OF_A_NUMBER,
    **RELU,
    **WHOLE_NUMBERS,
}
_VIEWS_READ = {aten.reshape.default, aten.contiguous.default}  # compositions whose parts the converter reads alike
_POOLS = {aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d}
_LEFT_OUT: dict[Any, tuple[float, ...]] = {aten.hardtanh.default: (-1.0, 1.0), aten.elu.default: (1.0,)}  # as usual
_NEAREST = {aten.upsample_nearest2d, aten._upsample_nearest_exact2d}
# registered, but fails on some of their forms
_MISREAD = {aten.rsub, aten.hardshrink, aten.rms_norm, aten.cosine_similarity, aten.nll_loss, aten.nll_loss_nd}
_MISREAD |= {aten.acosh, aten.asinh}  # converted to operators that Core ML has not
_MISREAD |= {aten.reciprocal}  # converted with 1e-4 added
_MISREAD |= {aten.copy, aten.fill}  # of a trace, taken for writes in place
_MISREAD |= {aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa}  # converted without their smoothing


def prepare(module: fx.GraphModule) -> fx.GraphModule:
    """Rewrite, in place, arguments that the converter gets wrong: left-out strides, integers for floats."""
    spell_out(module, MEMORY)
    without_complex(module)
    fold_constants(module)
    put_back(module)
    spell_out_bags(module)
    choose_for_masks(module)
    count_what_is_bounded(module)
    drop_casts(module.graph)
    spell_out(module, UNBATCHED)
    take_apart(module, TRANSPOSED)
    take_apart(module, LAYERS)
    spell_out(module, _SPELLED)
    square_by_products(module)
    divide_by_roots(module)
    crop_explicitly(module, held_by_coreml, held_by_coreml_in_volumes)
    spell_out_cells(module)
    pick_before_ordering(module, _RANK)
    within(module, _RANK)
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        packet = getattr(node.target, "overloadpacket", None)
        _floats_for_integers(node)
        if (usual := _LEFT_OUT.get(node.target)) is not None:
            node.args = (*node.args, *usual[len(node.args) - 1 :])
        if node.target is aten.hardtanh.default and node.args[1:] == (0.0, 6.0):
            node.target, node.args = aten.relu6.default, node.args[:1]
        if node.target is aten.view.default:  # how its source lies in memory a pass over the graph may change
            node.target = aten.reshape.default
        if packet in _POOLS and (len(node.args) == 2 or not node.args[2]):
            node.args = (*node.args[:2], node.args[1], *node.args[3:])  # the stride is the window by default
        if packet in _NEAREST:
            _rows_and_columns(module, node)
    module.graph.lint()
    module.recompile()
    return module


def lower(program: ExportedProgram, is_registered: Callable[[str], bool]) -> ExportedProgram:
    """The program in operators that the converter has and reads in full.

    Args:
        is_registered: whether the converter has an operator of this name, such as "aten::conv_transpose2d.input".

    Raises:
        ConversionError: an operator that it has not and that PyTorch cannot decompose.
    """
    if all(_is_read_as_it_is(node, is_registered) for node in calls(program.graph)):
        return in_aten(program)
    wrong: dict[Any, fx.Node] = {}
    for attempt in range(_ROUNDS):
        wrong = {node.target: node for node in calls(program.graph) if _complaint(node, is_registered)}
        if attempt and not wrong:
            for node in calls(program.graph):  # parts of compositions: `prepare` did so for what it found
                _floats_for_integers(node)
            return program
        table = {target: _decomposition(target) for target in wrong}
        for target, found in table.items():
            if found is None and attempt:  # the first round turns compositions such as flatten into views by itself
                raise ConversionError(
                    f"Core ML cannot hold {target} in {where(wrong[target])}: "
                    f"{_complaint(wrong[target], is_registered)}",
                    way_out=WAY_OUT,
                )
        program = program.run_decompositions({target: found for target, found in table.items() if found})
    raise ConversionError("Core ML cannot hold " + ", ".join(map(str, wrong)), way_out=WAY_OUT)


def is_read_in_a_trace(graph: fx.Graph, is_registered: Callable[[str], bool]) -> bool:
    """Whether the converter can be trusted with every call of a graph as TorchScript shows it, with all arguments."""
    return not any(
        (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable)
        or _complaint(node, is_registered)
        for node in calls(graph)
    )


def _is_read_as_it_is(node: fx.Node, is_registered: Callable[[str], bool]) -> bool:
    """Whether the converter can be trusted with a call that PyTorch would not take apart, or only name otherwise."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    if torch.Tag.maybe_aliasing_or_mutating in target.tags or target._schema.is_mutable:
        return False
    may_be_view = target._can_decompose() and any(argument.alias_info for argument in target._schema.arguments)
    return (not may_be_view or target in _VIEWS_READ) and not _complaint(node, is_registered)


def _decomposition(target: Any) -> Callable[..., Any] | None:
    """Ours, else PyTorch's, else what PyTorch itself composes it of."""
    from torch._decomp import decomposition_table

    found = DECOMPOSITIONS.get(target) or decomposition_table.get(target)
    composed = isinstance(target, torch._ops.OpOverload) and target._can_decompose()
    return found or (partial(_composed, target) if composed else None)


def _composed(target: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    return target._op_dk(
        torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs
    )  # `decompose` would come back here


def where(node: fx.Node) -> str:
    """The module path a node was traced in, for messages.

    >>> graph = fx.Graph()
    >>> where(graph.placeholder("x"))
    'the model itself'
    """
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return f"module {stack[-1]!r}" if stack else "the model itself"


def refused_input(graph: fx.Graph, text: str) -> ConversionError | None:
    """What coremltools stopped at by what it says, if that was a type it has no word for."""
    for node in graph.nodes:
        if node.op != "placeholder":
            continue
        value = node.meta.get("val")
        if isinstance(value, Tensor) and text.startswith(str(value.dtype)):
            name = str(value.dtype).removeprefix("torch.")
            return ConversionError(
                f"input '{node.name}' is {name}, and Core ML takes float32, float16 and int32",
                way_out=f"give int32 numbers as example (--inputs {'x'.join(map(str, value.shape))}:int32)",
            )
    if text.startswith("torch.bfloat16"):
        return ConversionError(
            "forward computes in bfloat16, which Core ML lacks",
            way_out="leave .bfloat16() out of forward: the file's precision is chosen at export (--precision)",
        )
    return None


def without_numbers(program: ExportedProgram) -> ExportedProgram:
    """The program without the inputs that are no tensors, None and numbers, which are constants in it.

    Tensors that lie channels last in the example lie as a file has them, in the order of their axes.
    """
    plain = [
        node for node in program.graph.nodes
        if node.op == "placeholder" and not node.users and not isinstance(node.meta.get("val"), Tensor)
    ]  # fmt: skip
    names = {node.name for node in plain}
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, Tensor) and not value.is_contiguous():
            node.meta["val"] = value.contiguous()
    for node in plain:
        program.graph.erase_node(node)
    specs = program.graph_signature.input_specs
    specs[:] = [spec for spec in specs if spec.arg.name not in names]
    return program


def of_high_rank(graph: fx.Graph) -> ConversionError | None:
    """The first result of more dimensions than Core ML has."""
    for node in calls(graph):
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dim() > _RANK:
            return ConversionError(
                f"Core ML holds tensors of {_RANK} dimensions at most, and {node.target} in {where(node)} gives "
                f"{tuple(value.shape)}",
                way_out="leave out dimensions of 1 there, or merge two that lie side by side (flatten)",
            )
    return None


def is_recurrent(module: fx.GraphModule) -> bool:
    """Whether a fused LSTM, GRU or RNN is called: coremltools converts those from a TorchScript trace only."""
    return any(node.target in RECURRENT for node in calls(module.graph))


def calls(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operator calls in execution order."""
    return (node for node in graph.nodes if node.op == "call_function")


def _complaint(node: fx.Node, is_registered: Callable[[str], bool]) -> str:
    """Why the converter cannot be trusted with this call, or ""."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None or node.target in RECURRENT:
        return ""
    if packet in _MISREAD or node.target in CHOICES or not is_registered(node.target.name()):  # type: ignore[union-attr]
        return "coremltools has no such operator"
    if node.target in MOVED_AS_NUMBERS and node.meta["val"].dtype == torch.bool:
        return "coremltools moves numbers alone"
    if packet is aten.prelu and node.args[0].meta["val"].dim() != 4:  # type: ignore[union-attr]
        return "coremltools takes a slope a channel for images only"
    for keyword, value in node.kwargs.items():
        if keyword not in _HARMLESS and (packet, keyword) not in _READ and value != _default(node, keyword):
            return f"coremltools would drop {keyword}={value!r}"
    return ""


def _rows_and_columns(module: fx.GraphModule, node: fx.Node) -> None:
    """Nearest-neighbour resizing by another than a whole factor, as a choice of rows and columns.

    coremltools writes the factor as a float a little too large, from which a runtime may read other places.
    """
    source: Any = node.args[0]
    (height, width), wanted = source.meta["val"].shape[-2:], node.meta["val"].shape[-2:]
    whole = wanted[0] % height == 0 and wanted[1] % width == 0
    if whole and getattr(node.target, "overloadpacket", None) is aten.upsample_nearest2d:
        return
    places = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
    chosen = node.target(places, *node.args[1:], **node.kwargs).long()[0, 0]  # type: ignore[operator]
    result = source
    with module.graph.inserting_before(node):
        for axis, indices in ((-2, chosen[:, 0] // width), (-1, chosen[0] % width)):
            name = f"{node.name}_places_{'rows' if axis == -2 else 'columns'}"
            module.register_buffer(name, indices)
            result = module.graph.call_function(aten.index_select.default, (result, axis, module.graph.get_attr(name)))
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)


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
