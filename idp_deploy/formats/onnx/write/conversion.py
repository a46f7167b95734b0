"""Captured graph → plain ONNX model: opset 18, IR 8, stable names, nothing in it that a runtime does not need."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import lru_cache, partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import onnx
import torch

from idp_deploy.capturing import Captured, module_of, refuse_projections
from idp_deploy.capturing.recurrences import whole_recurrences
from idp_deploy.errors import ConversionError, NoOperatorError
from idp_deploy.formats.onnx.write.borders import hold_borders
from idp_deploy.formats.onnx.write.naming import name_constants
from idp_deploy.formats.onnx.write.nodes import all_nodes
from idp_deploy.formats.onnx.write.orders import reorder
from idp_deploy.rewriting.bounds import join_bounds
from idp_deploy.rewriting.complexes import has_complex, refuse_complex_ends, without_complex
from idp_deploy.rewriting.diagonals import DIAGONALS
from idp_deploy.rewriting.elementwise import PLAINER, atan2, clamp, log_sigmoid, whole_quotient, whole_taken_from
from idp_deploy.rewriting.experts import EXPERTS
from idp_deploy.rewriting.images import ROUNDED_UP, adaptive_avg_pool3d
from idp_deploy.rewriting.indexing import RANKS, diagonal, trace
from idp_deploy.rewriting.lines import ALONG_A_LINE, STABLE
from idp_deploy.rewriting.masked import read_by_masks
from idp_deploy.rewriting.narrow import widen
from idp_deploy.rewriting.placing import MEMORY
from idp_deploy.rewriting.pooling import ADAPTIVE_LARGEST
from idp_deploy.rewriting.products import addmm, attention, cdist, pdist
from idp_deploy.rewriting.projected import PROJECTED
from idp_deploy.rewriting.repeats import REPEATS, count_what_is_bounded
from idp_deploy.rewriting.scattering import MEANS, WIDE_PLACES, select_scatter
from idp_deploy.rewriting.segments import SEGMENTS
from idp_deploy.rewriting.solving import SOLVING
from idp_deploy.rewriting.special import SPECIAL
from idp_deploy.rewriting.spelling import Row, spell_out
from idp_deploy.rewriting.truths import CHOSEN
from idp_deploy.rewriting.whole import OF_A_NUMBER, PRODUCTS

OPSET = 18  # with IR 8 the newest pair that onnxruntime 1.17 still loads; 20 with IR 10 it refuses
IR_VERSION = 8
# pools of any size and distances, for which ONNX has no operator, and what torch.onnx 2.13 exports as something else,
# or so that onnxruntime quantizes it to something else
_SPELLED: dict[Any, Row] = {
    torch.ops.aten.adaptive_avg_pool3d.default: adaptive_avg_pool3d,
    torch.ops.aten.addmm.default: addmm,
    torch.ops.aten.cdist.default: cdist,
    torch.ops.aten.pdist.default: pdist,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    torch.ops.aten.div.Tensor_mode: whole_quotient,
    torch.ops.aten.div.Scalar_mode: whole_quotient,
    torch.ops.aten.atan2.default: atan2,
    torch.ops.aten.clamp.default: clamp,
    torch.ops.aten.log_sigmoid.default: log_sigmoid,
    torch.ops.aten.rsub.Scalar: whole_taken_from,
    torch.ops.aten.diagonal.default: diagonal,
    torch.ops.aten.select_scatter.default: select_scatter,
    torch.ops.aten.trace.default: trace,
    **ADAPTIVE_LARGEST,
    **ALONG_A_LINE,
    **DIAGONALS,
    **EXPERTS,
    **MEANS,
    **OF_A_NUMBER,
    **PLAINER,
    **PRODUCTS,
    **RANKS,
    **REPEATS,
    **ROUNDED_UP,
    **SEGMENTS,
    **SOLVING,
    **SPECIAL,
    **STABLE,
    **CHOSEN,
    **WIDE_PLACES,
}
for _held in (torch.ops.aten.det.default, torch.ops.aten.linalg_det.default):
    _SPELLED.pop(_held)  # ONNX has an operator for these
# operators on complex numbers that torch.onnx refuses, or writes so that onnxruntime does
_NOT_OF_COMPLEX = {getattr(torch.ops.aten, name) for name in ("einsum", "istft", "zeros", "zeros_like", "new_zeros")}
_READ = "from_torchlib"
_READ_OF = {"aten", "prims", "quantized_decomposed", "torchvision"}  # that torch.onnx has rows for
HELD = (torch.ops.aten.lstm.input, torch.ops.aten.gru.input)  # ONNX has operators for these


def convert(captured: Captured) -> onnx.ModelProto:
    """The captured model through torch.onnx, inputs and outputs in the order of the flattened call and result.

    Inputs keep the names of forward's arguments, outputs get those of `captured.output_names`; a free batch is called
    "batch".

    Raises:
        ConversionError: an operator without an ONNX counterpart, named with the submodule that calls it.
    """
    outputs = captured.output_names()
    refuse_complex_ends(captured.module)
    spell_out(captured.module, PROJECTED)
    refuse_projections(captured, "ONNX")
    without_complex(captured.module, only_with=_NOT_OF_COMPLEX)
    spell_out(captured.module, MEMORY)
    count_what_is_bounded(captured.module)
    read_by_masks(captured.module.graph)
    widen(captured.module)
    spell_out(captured.module, _SPELLED)
    join_bounds(captured.module)
    try:
        model = _through_torch(captured)
    except torch.onnx.OnnxExporterError as error:
        if not has_complex(captured.module):
            raise _explained(error, captured) from error
        without_complex(captured.module)
        spell_out(captured.module, _SPELLED)
        try:
            model = _through_torch(captured)
        except torch.onnx.OnnxExporterError:
            raise _explained(error, captured) from error
    model.ir_version = IR_VERSION
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if versions.get("", OPSET) != OPSET:
        raise ConversionError(
            f"this model needs ONNX opset {versions['']}; files are written with opset {OPSET}",
            way_out="replace the operator that has no older form",
        )
    hold_borders(model.graph)
    name_constants(model.graph, captured.module.state_dict().keys() | set(captured.aliases))
    _strip(model)
    reorder(model.graph)
    _name_boundary(model, outputs)
    return model


def _through_torch(captured: Captured) -> onnx.ModelProto:
    with (
        _quiet(), _operators_read_once(), _sound_rules(),
        torch.random.fork_rng(), torch.no_grad(), whole_recurrences(HELD),
    ):  # fmt: skip
        exported = torch.onnx.export(captured.program(), dynamo=True, opset_version=OPSET, verbose=False, optimize=True)
    assert exported is not None
    return exported.model_proto


def _strip(model: onnx.ModelProto) -> None:
    """Drop what no runtime reads: documentation, per-node metadata, shapes of inner values, unused constants."""
    del model.metadata_props[:]
    model.doc_string = model.producer_version = ""
    model.producer_name = "idp-deploy"
    graph = model.graph
    graph.doc_string = ""
    graph.name = "model"
    del graph.value_info[:]
    del graph.metadata_props[:]
    for named in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        named.doc_string = ""
        del named.metadata_props[:]
    used = {name for node in all_nodes(graph) for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)


def _name_boundary(model: onnx.ModelProto, outputs: list[str]) -> None:
    """Rename outputs and the batch extent; an output that is an input, a constant or a twin gets an Identity.

    What the graph itself calls like an output gives way.
    """
    graph = model.graph
    if len(outputs) != len(graph.output):
        raise ConversionError(f"the model returns {len(outputs)} tensors, its graph {len(graph.output)}")
    fixed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made = {name for node in all_nodes(graph) for name in node.output}
    renames: dict[str, str] = {}
    repeated: list[tuple[str, str]] = []
    for value, name in zip(graph.output, outputs, strict=True):
        if value.name in fixed or value.name in renames:
            repeated.append((value.name, name))
        else:
            renames[value.name] = name
        value.name = name
    taken = made | fixed | set(outputs)
    for name in sorted((made | fixed) & set(outputs) - set(renames)):
        inner = name + "_inner"
        while inner in taken:
            inner += "_inner"
        taken.add(inner)
        renames[name] = inner
    for node in all_nodes(graph):
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renames.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renames.get(tensor.name, tensor.name)
    for source, name in repeated:
        graph.node.append(onnx.helper.make_node("Identity", [renames.get(source, source)], [name]))
    symbols: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbols.setdefault(
                    dim.dim_param, "batch" if not symbols else re.sub(r"\W", "_", dim.dim_param)
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter logs and warns about packages that no exported model needs, and what its optimizer passes over."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _sound_rules() -> Iterator[None]:
    """The optimizer of onnxscript without what its rules take for the same and is not."""
    with ExitStack() as changed:
        for path, name, made in _SOUND:
            try:
                owner: Any = import_module(path)
            except ImportError:  # an onnxscript that goes about it otherwise
                continue
            *outer, name = name.split(".")
            for part in outer:
                owner = getattr(owner, part, None)
            if (own := getattr(owner, name, None)) is not None:
                changed.callback(setattr, owner, name, own)
                setattr(owner, name, made(own))
        yield


def _same_constant(found: float, expected: float, *, rel_tol: float = 1e-9, abs_tol: float = 0.0) -> bool:
    """Whether a rule's constant is meant: 0 and 1 stand for themselves alone, others up to their rounding."""
    return found == expected if expected in (0, 1) else math.isclose(found, expected, rel_tol=rel_tol, abs_tol=abs_tol)


def _where_rows_are_put(check: Callable[..., Any]) -> Callable[..., Any]:
    """A rule's check, for a ScatterND that puts: one that adds is more than its updates."""

    def checked(context: Any, **found: Any) -> Any:
        return context.root.attributes.get_string("reduction", "none") == "none" and check(context, **found)

    return checked


def _constants_of_its_own(rewrite: Callable[..., Any]) -> Callable[..., Any]:
    """A rewriting whose new constants take no other's name: rules call them by what they read, as others may have."""

    def tried(rule: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        change = rewrite(rule, model, graph, node, **options)
        taken = getattr(graph, "initializers", {})
        for value in change.new_initializers if change else ():
            if value.name in taken:
                value.name = f"{value.name}/{node.outputs[0].name}"
        return change

    return tried


_COMMON = "onnxscript.rewriter.rules.common"
_SOUND: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    # 1e-8 is not the 0 of x + 0 → x: it keeps x / (n + 1e-8) from 0 / 0
    ("onnxscript.rewriter._matcher", "math", lambda own: SimpleNamespace(**vars(own) | {"isclose": _same_constant})),
    # x.index_add(0, every row in order, u) is not u
    (f"{_COMMON}._redundant_scatter_nd", "no_op_static_scatter_nd_rule._condition_function", _where_rows_are_put),
    # a bound of shape (1, 1) gives a vector another axis, which Clip does not
    (
        f"{_COMMON}._min_max_to_clip",
        "_FuseMinMaxBase._is_scalar",
        lambda own: lambda rule, value: not value.ndim and own(rule, value),
    ),
    # of two chains of clamps that begin with one tensor, the second takes the first one's bounds away
    ("onnxscript.rewriter._rewrite_rule", "RewriteRule.try_rewrite", _constants_of_its_own),
)


@contextmanager
def _operators_read_once() -> Iterator[None]:
    """torch.onnx reads its operators from their sources at every export, for half of its time: here once a process."""
    from torch.onnx._internal.exporter import _registration

    registry: Any = getattr(_registration, "ONNXRegistry", None)
    if (plain := vars(registry).get(_READ) if registry else None) is None:  # a torch that goes about it otherwise
        yield
        return
    setattr(registry, _READ, staticmethod(partial(_table, getattr(registry, _READ))))
    try:
        yield
    finally:
        setattr(registry, _READ, plain)


def _table(read: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The table of operators as `read` makes it, for one export: what it adds goes into a copy."""
    import torch.ao.quantization.fx._decomposed  # whose operators come with one format or another

    known = (name for name in torch._C._dispatch_get_all_op_names() if name.partition("::")[0] in _READ_OF)
    table = copy(_read(read, frozenset(known), *args, **options))
    table.functions = {target: list(entries) for target, entries in table.functions.items()}
    return table


@lru_cache(2)
def _read(read: Callable[..., Any], _operators: frozenset[str], *args: Any, **options: Any) -> Any:
    """Once for what is registered with PyTorch: of a library that was not loaded, `read` leaves the operators out."""
    return read(*args, **options)


def _explained(error: BaseException, captured: Captured) -> ConversionError:
    """Name the operator and the submodule: the converter's own report names neither in one line."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    text = "\n".join(str(link) for link in chain)
    found = re.search(r"op='([\w.]+)'", text) or re.search(r"target=torch\.ops\.([\w.]+?)(?:\.default)?\]", text)
    if not found:
        first = next((line for line in str(chain[-1]).splitlines() if line.strip()), type(error).__name__)
        return ConversionError(f"torch.onnx cannot convert this model: {first}", way_out="simplify the model's forward")
    operator = found[1]
    where = module_of(operator, captured)
    leaf = operator.split(".")[1] if "." in operator else operator
    called = {node.target for node in captured.module.graph.nodes if leaf.strip("_") in str(node.target)}
    # called as it stands and spelled by no row, which may want the batch as a number: the same whatever the batch is
    whatever = "No decompositions registered" in text and bool(called) and not called & _SPELLED.keys()
    return (NoOperatorError if whatever else ConversionError)(
        f"ONNX has no counterpart for the operator {operator}{where}",
        way_out="replace it there by operators that ONNX knows",
    )
