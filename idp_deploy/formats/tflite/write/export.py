"""TFLite: CompressedModel → .tflite with sparse weights behind DENSIFY, checked in both of LiteRT's runtimes.

    convert (litert_torch) → match constants to parameters | store each the smallest way → serialize → prove

Image inputs are channel-last in the file, which is how XNNPACK runs; the manifest's `layouts` says so. Shapes are
fixed: a batch of 1 is what phones run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from idp_deploy import files
from idp_deploy.capturing import Captured, refuse_branches, refuse_returned_inputs
from idp_deploy.errors import ConversionError, PrecisionError
from idp_deploy.flow import Quantization
from idp_deploy.formats import manifest
from idp_deploy.formats.notes import Placement
from idp_deploy.formats.tflite.write.checking import TOLERANCES, Named, failure_of
from idp_deploy.formats.tflite.write.conversion import Lowered, convert, explain
from idp_deploy.formats.tflite.write.ends import (
    integer_ends,
    layout_notes,
    part_outputs,
    refuse_empty,
    refuse_io,
    refuse_layout,
)
from idp_deploy.formats.tflite.write.graph import (
    add_buffer,
    compact,
    constants,
    kind,
    mean_single_places,
    merge_equal_constants,
    name_the_rest,
    schema,
)
from idp_deploy.formats.tflite.write.integer import (
    between,
    delicate,
    lost_biases,
    quantize_static,
    rejoin_integers,
    repair_dead_channels,
)
from idp_deploy.formats.tflite.write.matching import Match, match
from idp_deploy.formats.tflite.write.memory import keep_what_is_read
from idp_deploy.formats.tflite.write.micro import behind_decoders
from idp_deploy.formats.tflite.write.pointwise import as_convolutions
from idp_deploy.formats.tflite.write.recurring import write_steps
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.formats.tflite.write.storing import Plan, plan, prune_constants, store_constants
from idp_deploy.formats.writing import Converted, Written
from idp_deploy.rewriting.transposed import refuse_integer_volumes
from idp_deploy.soundness import refuse_float16

_KEPT_METADATA = (b"min_runtime_version",)
_WAY_OUT_INT8 = "use --scheme int8-weights, which keeps activations float"
_WAY_OUT_SCHEME = "TFLite holds fp16, int8-weights and int8; export to Core ML for a palette"


@dataclass(frozen=True, eq=False)
class _Source:
    """The file without its constants, these as they are stored plainly, and what they are."""

    content: bytes
    data: Sequence[Any]  # of each buffer
    matches: Mapping[int, Match]
    plan: Plan
    calls: Sequence[tuple[Named, Named]]  # of the model, by tensor name, inputs in the file's layout
    module: fx.GraphModule  # for naming what a runtime stops at
    micro: bool  # whether the weights go behind decoders that only TensorFlow Lite Micro knows
    lost_biases: Mapping[str, float]  # name → a value that is more steps of its scale than int32 counts


def convert_tflite(
    captured: Captured, quantization: Quantization | None, encoding: str, *, io: str = "float", layout: str = "auto"
) -> Converted:
    """The model as a TFLite file that stock LiteRT loads.

    Shapes are those of the example inputs. Integers of 64 bits become 32 bits wide in the file.

    Args:
        encoding: auto stores each weight the smallest way; dense stores nothing sparsely; csr and block:1xN force
            that layout on every weight that has a mask; tflm stores them for TensorFlow Lite Micro alone.
        io: int8 lets an int8 model take and give integers, so that no operator at its ends computes floats.
        layout: of images. nhwc: the file takes and gives (batch, height, width, channels); nchw: what the model does,
            with transpositions inside; auto: it takes the first and gives the second.

    Raises:
        ConversionError: an operator or a scheme TFLite cannot hold. UsageError: an unknown encoding or layout, or
            integers asked of a model that computes floats.
    """
    scheme = quantization.scheme if quantization else None
    if scheme not in TOLERANCES:
        raise ConversionError(f"the scheme {scheme!r} has no TFLite equivalent", way_out=_WAY_OUT_SCHEME)
    refuse_io(io, scheme)
    refuse_layout(layout)
    levels = quantization.levels if quantization else {}
    wanted = replace(plan(encoding, scheme, _quantized(captured, quantization)), levels=levels)
    refuse_returned_inputs(captured, "TFLite")
    refuse_branches(captured, "TFLite")
    refuse_empty(captured)
    refuse_float16(captured.original, captured.example_inputs, "TFLite's kernels compute in float32 or integers")
    if scheme == "int8":
        refuse_integer_volumes(captured.module)
    lowered = convert(captured, _calibration(captured, quantization), layout=layout)
    tflite = parse(lowered.content)
    write_steps(tflite)
    part_outputs(tflite)
    if scheme != "int8":  # shared constants would need one scale each
        merge_equal_constants(tflite)
    mean_single_places(tflite)
    parameters, masks = _parameters(captured)
    matches = match({c.index: c.values for c in constants(tflite)}, parameters)
    outputs = captured.output_names()
    _name_outputs(tflite, outputs)
    _name(tflite, matches)
    ends: tuple[str, ...] = ()
    lost: dict[str, float] = {}
    if scheme == "int8":
        tflite, matches, lost = _integers(tflite, matches, lowered, wanted.quantized)
        ends = integer_ends(tflite) if io == "int8" else ()
        merge_equal_constants(tflite)
        if not wanted.is_dense:
            as_convolutions(tflite, matches, masks)
    keep_what_is_read(tflite)
    turned = lowered.channel_last
    calls = [
        (_arriving(given, turned.inputs), dict(zip(outputs, _turned(expected, turned.outputs), strict=True)))
        for given, expected in lowered.calls
    ]
    images = (*(f"args_{i}" for i in sorted(turned.inputs)), *(outputs[i] for i in sorted(turned.outputs)))
    layouts = dict.fromkeys(images, "NHWC")
    data = [buffer.data for buffer in tflite.buffers]
    for buffer in tflite.buffers:
        buffer.data = None
    return Converted(
        _Source(serialize(tflite), data, matches, wanted, calls, captured.module, encoding == "tflm", lost),
        inputs=tuple(f"args_{i}" for i in range(len(lowered.calls[0][0]))),
        outputs=tuple(outputs),
        tensors={found.parameter: found.parameter for found in matches.values()},
        fixed=frozenset(found.parameter for found in matches.values() if not found.exact),
        layouts=layouts,
        notes=(*layout_notes(layouts, outputs), *ends),
    )


def store_tflite(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    """The file as it was planned."""
    source: _Source = converted.source
    return _written(source, *_stored(source, masks, source.plan, record))


def prove_tflite(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    """The first of the plan's attempts that both of LiteRT's kernel sets compute right.

    Raises:
        ConversionError: none is; a PrecisionError where 8 bits may be too few.
    """
    source: _Source = converted.source
    failure = ""
    for storing, note in source.plan.attempts():
        content, placed = _stored(source, masks, storing, record)
        failure = failure_of(content, source.calls, TOLERANCES[source.plan.scheme])
        if not failure:
            return _written(source, content, placed, (note,) if note else ())
    for name, value in source.lost_biases.items():
        failure = f"bias '{name}' has {value:.3g}, more steps of its layer's scale than int32 counts: {failure}"
    if source.plan.scheme == "int8":
        raise PrecisionError(explain(source.module, failure), way_out=_WAY_OUT_INT8)
    raise ConversionError(explain(source.module, failure), way_out="leave that operator out")


def _stored(
    source: _Source, masks: Mapping[str, np.ndarray], storing: Plan, record: str
) -> tuple[bytes, dict[str, Placement]]:
    """The file with its constants stored according to a plan, and how each parameter lies in it."""
    tflite = parse(source.content)
    for buffer, data in zip(tflite.buffers, source.data, strict=True):
        buffer.data = data
    prune_constants(tflite, source.matches, masks)
    placed = store_constants(tflite, source.matches, masks, storing)
    return _finish(tflite, record), placed


def _written(source: _Source, content: bytes, placed: Mapping[str, Placement], notes: tuple[str, ...] = ()) -> Written:
    """The file, for TensorFlow Lite Micro where it was meant for that."""
    if source.micro:
        content, placed = _for_micro(content, placed)
    return Written(partial(_save, content), placed, notes)


def _save(content: bytes, path: Path) -> int:
    files.write_bytes(path, content)
    return len(content)


def _for_micro(content: bytes, placed: Mapping[str, Placement]) -> tuple[bytes, dict[str, Placement]]:
    """A file that LiteRT takes, with its weights behind decoders that LiteRT does not know."""
    tflite = parse(content)
    packed = behind_decoders(tflite)
    compact(tflite)
    return serialize(tflite), {
        name: replace(one, is_sparse=True) if name in packed else one for name, one in placed.items()
    }


def _quantized(captured: Captured, quantization: Quantization | None) -> set[str]:
    """The parameters that the scheme covers."""
    if quantization is None:
        return set()
    return set(quantization.signal_to_noise_db or captured.masks) - set(quantization.kept_float)


def _calibration(captured: Captured, quantization: Quantization | None) -> tuple[Any, ...]:
    if quantization is None or quantization.scheme != "int8":
        return ()
    return quantization.calibration or (captured.example_inputs,)


def _integers(
    tflite: Any, matches: Mapping[int, Match], lowered: Lowered, quantized: Collection[str]
) -> tuple[Any, dict[int, Match], dict[str, float]]:
    """Weights and activations in int8; the matches under the tensor indices of the new model; what biases lost."""
    graph = tflite.subgraphs[0]
    by_name = {graph.tensors[index].name: found for index, found in matches.items()}
    biases = {graph.tensors[c.index].name: c.values for c in constants(tflite) if c.values.ndim == 1}
    float_weights = {i for i, found in matches.items() if found.parameter not in quantized and found.is_matrix}
    keep_float = [
        graph.tensors[int(op.outputs[0])].name
        for op in graph.operators
        if any(int(t) in float_weights for t in op.inputs[:2])
    ]
    calls = [_arriving(call, lowered.channel_last.inputs) for call in lowered.calibration]
    floats = [*keep_float, *delicate(tflite)]
    if keep_float:
        floats += between(tflite, floats)
    content = quantize_static(tflite, calls, floats)
    quantized_model = parse(content)
    for tensor in quantized_model.subgraphs[0].tensors:
        tensor.name = tensor.name.decode()
    _restore_signature_names(quantized_model)
    rejoin_integers(quantized_model)
    repair_dead_channels(quantized_model, biases)
    lost = {
        by_name[name].parameter if name in by_name else name: value
        for name, value in lost_biases(quantized_model, biases).items()
    }
    names = {tensor.name: i for i, tensor in enumerate(quantized_model.subgraphs[0].tensors)}
    return quantized_model, {names[name]: found for name, found in by_name.items() if name in names}, lost


def _restore_signature_names(tflite: Any) -> None:
    """The quantizer calls a float output `output_0_dequant` and gives its name to the integers before it.

    Of an output that is also the input of an integer layer it returns the integers: the float tensor comes back. Of
    one that a float operator reads as well, the graph returns the float tensor and the signature still names integers.
    """
    graph = tflite.subgraphs[0]
    tensors = graph.tensors
    promised = {int(entry.tensorIndex) for signature in tflite.signatureDefs for entry in signature.outputs}
    source = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if kind(tflite, op) == "QUANTIZE"}
    floats = {int(op.inputs[0]): int(op.outputs[0]) for op in graph.operators if kind(tflite, op) == "DEQUANTIZE"}
    graph.outputs = [int(t) if int(t) in promised else source.get(int(t), int(t)) for t in graph.outputs]
    for signature in tflite.signatureDefs:
        for entry in signature.outputs:
            if int(entry.tensorIndex) not in graph.outputs:
                entry.tensorIndex = floats[int(entry.tensorIndex)]
        for entry in [*signature.inputs, *signature.outputs]:
            name = entry.name.decode()
            for tensor in tensors:
                if tensor.name == name:
                    tensor.name = f"{name}#int8"
            tensors[int(entry.tensorIndex)].name = name


def _arriving(call: Sequence[np.ndarray], channel_last: Collection[int]) -> dict[str, np.ndarray]:
    """A call by input name, in the file's layout and number types."""
    arrays = _turned(call, channel_last)
    narrow = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
    return {f"args_{i}": np.array(x, narrow.get(x.dtype, x.dtype), order="C") for i, x in enumerate(arrays)}


def _turned(arrays: Sequence[np.ndarray], channel_last: Collection[int]) -> list[np.ndarray]:
    return [np.moveaxis(x, 1, -1) if i in channel_last else x for i, x in enumerate(arrays)]


def _parameters(captured: Captured) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Float parameters and buffers that the graph uses, and masks. A tied weight goes by the name that has the mask.

    Prunable weights come first: they have the first claim on a constant.
    """
    tied = {captured.aliases.get(name, name): name for name in captured.masks}
    used = captured.used
    found = {
        tied.get(name, name): captured.weight(name)
        for name, t in captured.module.state_dict().items()
        if name in used and t.is_floating_point() and t.dim()
    }
    masks = {name: mask for name, mask in captured.masks.items() if name in found}
    return {name: found[name] for name in [*masks, *(n for n in found if n not in masks)]}, masks


def _name_outputs(tflite: Any, names: Sequence[str]) -> None:
    """The signature's outputs, `output_0`, `output_1`, … to the converter, get the model's names."""
    for signature in tflite.signatureDefs or []:
        for entry in signature.outputs:
            entry.name = names[int(entry.name.decode().removeprefix("output_"))].encode()


def _name(tflite: Any, matches: Mapping[int, Match]) -> None:
    """Short names: inputs and outputs as in the signature, weights by parameter, results by the layer they end."""
    taken: dict[str, int] = {}

    def unique(name: str) -> str:
        taken[name] = taken.get(name, -1) + 1
        return f"{name}#{taken[name]}" if taken[name] else name

    for position, graph in enumerate(tflite.subgraphs):
        prefix = f"{position}/" if position else ""
        names: dict[int, str] = {}
        if not position:
            for signature in tflite.signatureDefs or []:
                for entry in [*signature.inputs, *signature.outputs]:
                    names[int(entry.tensorIndex)] = unique(entry.name.decode())
            names |= {index: unique(found.parameter) for index, found in matches.items() if index not in names}
        for op in graph.operators:
            weights = [int(t) for t in op.inputs[1:] if int(t) in matches] if not position else []
            layer = names[weights[0]].rpartition(".")[0] if weights else ""
            for output in op.outputs:
                if int(output) not in names:
                    names[int(output)] = unique(prefix + (layer or kind(tflite, op).lower()))
        for index, tensor in enumerate(graph.tensors):
            tensor.name = names.get(index) or unique(f"{prefix}constant")


def _finish(tflite: Any, record: str) -> bytes:
    """Attach the manifest, drop what no runtime reads, serialize."""
    entry = schema().MetadataT()
    entry.name, entry.buffer = manifest.KEY, add_buffer(tflite, record.encode())
    tflite.metadata = [*(m for m in tflite.metadata or [] if m.name in _KEPT_METADATA), entry]
    tflite.metadataBuffer, tflite.description = None, "idp-deploy"
    compact(tflite)
    name_the_rest(tflite)
    return serialize(tflite)
