"""export --to coreml: an ML program whose pruned weights are stored sparse, in an .mlpackage.

The route is torch.export → coremltools → its finished program → our storage → package. Models with a fused LSTM, GRU or
RNN go through a TorchScript trace instead, since coremltools converts those operators from there only.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from idp_deploy import files
from idp_deploy.capturing import Captured, refuse_branches, refuse_projections, refuse_returned_inputs
from idp_deploy.capturing.recurrences import whole_recurrences
from idp_deploy.errors import ConversionError, IdpDeployError, PrecisionError, UsageError
from idp_deploy.flow import Quantization
from idp_deploy.formats import manifest
from idp_deploy.formats.coreml.write import graph as coreml_graph
from idp_deploy.formats.coreml.write import package as coreml_package
from idp_deploy.formats.coreml.write.blob import inline_small
from idp_deploy.formats.coreml.write.compacting import compact
from idp_deploy.formats.coreml.write.ends import part_outputs
from idp_deploy.formats.coreml.write.halves import hold_far_numbers
from idp_deploy.formats.coreml.write.matching import Match, match
from idp_deploy.formats.coreml.write.storing import Plan, store
from idp_deploy.formats.coreml.write.turned import needs_its_turns
from idp_deploy.formats.notes import Placement
from idp_deploy.formats.writing import Converted, Written
from idp_deploy.masks import prunable_weights
from idp_deploy.rewriting.projected import PROJECTED
from idp_deploy.rewriting.spelling import spell_out

ENCODINGS = ("auto", "dense", "sparse")
PRECISIONS = ("float16", "float32")
SCHEMES = {"": "", "fp16": "", "int8": "int8", "int8-weights": "int8", "lut4": "lut4"}
TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")
# They multiply factors into weights, which the file then shares with no model, and misplace those of grouped
# transposed convolutions.
# The third joins what a recurrent layer of two levels hands on to another one, and stops where the next reads it early;
# the last turns the sign of a weight whose result is taken from a constant, and stops at a number as the constant.
_UNWANTED_PASSES = tuple(
    f"common::{name}" for name in ("fuse_conv_scale", "fuse_conv_batchnorm", "fuse_stack_split", "fuse_linear_bias")
)


@dataclass(frozen=True, eq=False)
class _Source:
    """The program and its weight file with every constant stored plainly, and what these are."""

    spec: Any
    blob: bytes
    matches: Mapping[str, Match]
    plan: Plan


def convert_coreml(
    captured: Captured,
    quantization: Quantization | None,
    encoding: str,
    *,
    precision: str = "float16",
    deployment_target: str | None = None,
) -> Converted:
    """The model as an ML program.

    The batch is the example's: a Core ML program with a free extent leaves the neural engine.

    Args:
        encoding: auto takes the smallest per tensor; dense none sparse; sparse all with a zero, also where larger.
        precision: float16 (what Core ML's accelerators compute in) or float32; inputs and outputs are float32.
        deployment_target: the oldest iOS that must load the file. Sparse weights need iOS16; weights that are both
            sparse and int8 or palettized need iOS18. Default: the oldest that holds this model.

    Raises:
        UsageError: an option that does not exist, or a deployment target too old for what was asked.
        ConversionError: an operator that coremltools cannot convert, or weights beyond float16.
    """
    scheme = SCHEMES[quantization.scheme if quantization else ""]
    target = _target(deployment_target, encoding, precision, scheme)
    refuse_returned_inputs(captured, "Core ML")
    spell_out(captured.module, PROJECTED)
    refuse_projections(captured, "Core ML")
    refuse_branches(captured, "Core ML")
    weights = _weights(captured)
    if precision == "float16":
        _refuse_overflow(weights)
    spec, blob = _convert(captured, target, precision)
    gates = {n: w.gates for n, w in prunable_weights(captured.original).items() if w.gates > 1 and n in weights}
    part_outputs(spec, captured.output_names())
    compact(spec)
    matches, placed = match(spec, blob, weights, gates)
    covered = quantization.covered if quantization else frozenset()
    levels = quantization.levels if quantization else {}
    shared = [set(found.names) & captured.masks.keys() for found in matches.values()]
    notes = [] if deployment_target else [f"deployment target {target}: the oldest that holds this model"]
    if quantization and quantization.scheme == "int8":
        notes.append("int8: the weights are int8, activations stay floating point")
    return Converted(
        _Source(spec, blob, matches, Plan(encoding, scheme, covered, levels, target not in ("iOS16", "iOS17"))),
        inputs=tuple(feature.name for feature in spec.description.input),
        outputs=tuple(feature.name for feature in spec.description.output),
        tensors=placed,
        fixed=frozenset(name for names in shared if len(names) > 1 for name in names),
        notes=tuple(notes),
    )


def store_coreml(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    """The package, with every weight in its smallest encoding."""
    source: _Source = converted.source
    spec = type(source.spec)()
    spec.CopyFrom(source.spec)
    records, encodings, unfit = store(spec, source.blob, source.matches, masks, source.plan)
    blob = inline_small(spec, records)
    scheme = source.plan.scheme
    placed = {
        name: Placement(
            tensor,
            encodings[tensor].startswith("sparse"),
            not scheme or encodings[tensor].endswith(scheme),
            tensor not in unfit,
        )
        for name, tensor in converted.tensors.items()
    }
    return Written(partial(_save, spec, blob, record), placed)


def _save(spec: Any, blob: bytes, record: str, path: Path) -> int:
    with files.replacing(path, package=True) as temporary:
        coreml_package.write(temporary, spec, blob, {manifest.KEY: record})
        coreml_package.open_with_coremltools(temporary)
    return files.size_bytes(path)


def _target(requested: str | None, encoding: str, precision: str, scheme: str) -> str:
    """The deployment target to convert for; refuses what is asked but does not exist there."""
    if encoding not in ENCODINGS:
        raise UsageError(f"Core ML has no encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", way_out=f"one of {', '.join(PRECISIONS)}")
    needed = "iOS18" if scheme else "iOS16"
    if requested is None:
        return needed
    known = {target.lower(): target for target in TARGETS}
    target = known.get(requested.lower())
    if target is None:
        older = re.fullmatch(r"(?i)ios(1[0-5])", requested)
        raise UsageError(
            f"deployment target {requested!r} " + ("cannot store weights sparse" if older else "is unknown"),
            way_out=f"sparse weights need iOS16; one of {', '.join(TARGETS)}",
        )
    if TARGETS.index(target) < TARGETS.index(needed):
        raise UsageError(
            f"deployment target {target!r} cannot store {scheme} weights per channel and sparse",
            way_out="ask for iOS18, or export without quantizing",
        )
    return target


def _weights(captured: Captured) -> dict[str, np.ndarray]:
    """Float parameters and buffers by name; a tied weight appears under each of its names."""
    state = captured.module.state_dict()
    return {name: t.detach().cpu().float().numpy() for name, t in state.items() if t.is_floating_point()}


def _refuse_overflow(weights: dict[str, np.ndarray]) -> None:
    largest = float(np.finfo(np.float16).max)
    for name, values in weights.items():
        reached = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        if not reached <= largest:
            raise PrecisionError(
                f"weight {name!r} reaches {reached:g}, beyond float16's {largest:g}",
                way_out="export with --precision float32",
            )


def _convert(captured: Captured, target: str, precision: str) -> tuple[Any, bytes]:
    """coremltools' conversion: the Model message, never loaded by its runtime, and its weight file."""
    if precision == "float16":
        hold_far_numbers(captured.module)
    coreml_graph.prepare(captured.module)
    # coremltools leaves folders of its own behind where a process ends badly
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        import coremltools as ct

        source: Any = None
        try:
            program = captured.program()
            source, inputs = _source(program, captured)
            pipeline = ct.PassPipeline.DEFAULT
            pipeline.remove_passes(_UNWANTED_PASSES)
            if needs_its_turns(captured.module.graph):
                pipeline.remove_passes(["common::reduce_transposes"])
            converted = ct.convert(
                source,
                inputs=inputs,
                outputs=[
                    ct.TensorType(name=name, dtype=np.float32) if is_float else ct.TensorType(name=name)
                    for name, is_float in _outputs(captured, program)
                ],
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=ct.precision.FLOAT16 if precision == "float16" else ct.precision.FLOAT32,
                pass_pipeline=pipeline,
                skip_model_load=True,
                package_dir=str(Path(folder) / "converted.mlpackage"),
            )
        except IdpDeployError:
            raise
        except Exception as error:  # coremltools raises every kind; what failed is in its text
            raise _explained(error, captured, source) from error
        weight_file = Path(converted.weights_dir or "") / "weight.bin"
        return converted.get_spec(), weight_file.read_bytes() if weight_file.is_file() else b""


def _source(program: ExportedProgram, captured: Captured) -> tuple[Any, Any]:
    """(what coremltools converts, its input types where it cannot tell them)."""
    import coremltools as ct

    if not coreml_graph.is_recurrent(captured.module):
        return coreml_graph.without_numbers(coreml_graph.lower(program, _is_registered)), None
    flat = _Flat(captured)
    if not coreml_graph.is_read_in_a_trace(program.graph, _is_registered):
        with whole_recurrences():
            flat.module = coreml_graph.lower(program, _is_registered).module(check_guards=False)
    program = coreml_graph.without_numbers(program)
    tensors = [x for x in flat.leaves if isinstance(x, Tensor)]
    traced = torch.jit.trace(flat, tuple(tensors), strict=False, check_trace=False)
    names = [str(name) for name in program.graph_signature.user_inputs]
    return traced, [
        ct.TensorType(name=name, shape=tuple(x.shape), dtype=np.float32 if x.is_floating_point() else np.int32)
        for name, x in zip(names, tensors, strict=True)
    ]


class _Flat(torch.nn.Module):
    """Tensors in, a tuple of tensors out, whatever the model nests them in: TorchScript knows no mixed dicts.

    A constant among the results is copied: what a trace gives must come from an operator.
    """

    def __init__(self, captured: Captured) -> None:
        super().__init__()
        self.module = captured.module
        self.leaves, self.nest = pytree.tree_flatten(captured.example_inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        own = {id(tensor) for tensor in (*self.module.parameters(), *self.module.buffers())}
        results = pytree.tree_leaves(self.module(*pytree.tree_unflatten(leaves, self.nest)))
        return tuple(x.clone() if id(x) in own else x for x in results)


def _is_registered(operator: str) -> bool:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    return _TORCH_OPS_REGISTRY.get_func(operator) is not None


def _outputs(captured: Captured, program: ExportedProgram) -> list[tuple[str, bool]]:
    """(name, whether it is floating point) of every output."""
    names = captured.output_names()
    nodes = next(iter(reversed(program.graph.nodes))).args[0][-len(names) :] if names else []
    return [(name, node.meta["val"].is_floating_point()) for name, node in zip(names, nodes, strict=True)]


def _explained(error: Exception, captured: Captured, source: Any) -> ConversionError:
    """Which operator stopped the conversion, and in which module it was called."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if (refused := coreml_graph.refused_input(captured.module.graph, text)) is not None:
        return refused
    if "rank <= 5" in text and (high := coreml_graph.of_high_rank(captured.module.graph)) is not None:
        return high
    stopped = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "convert_single_node":
            stopped = frame.f_locals["node"]
    graphs = [captured.module.graph] + ([source.graph] if isinstance(source, ExportedProgram) else [])
    for graph in graphs:
        for node in coreml_graph.calls(graph):
            named = stopped is not None and node.name == stopped.name
            if named or re.search(rf"\bfx node {node.name}\b", text):
                return ConversionError(
                    f"coremltools cannot convert {node.target} in {coreml_graph.where(node)}: {text}",
                    way_out=coreml_graph.WAY_OUT,
                )
    what = f"operator {stopped.kind!r} of this model" if stopped is not None else "this model"
    return ConversionError(f"coremltools cannot convert {what}: {text}", way_out=coreml_graph.WAY_OUT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """coremltools reports progress and its view of installed versions on stderr; the command line speaks for itself."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
