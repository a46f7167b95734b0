"""export to ONNX: onnxruntime has no sparse kernels, so zeros save disk and download here — neither memory nor time.

Sparse encoding comes last, after every graph pass and after quantization; each tensor takes the encoding that is
smallest in this file, decode nodes included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from idp_deploy import files
from idp_deploy.capturing import Captured
from idp_deploy.errors import UsageError
from idp_deploy.flow import Levels, Quantization
from idp_deploy.formats import manifest
from idp_deploy.formats.external_data import data_name, remove_data
from idp_deploy.formats.notes import Placement
from idp_deploy.formats.onnx.write.conversion import convert
from idp_deploy.formats.onnx.write.decoding import Decoder
from idp_deploy.formats.onnx.write.matching import Match, match
from idp_deploy.formats.onnx.write.number_forms import smallest_form
from idp_deploy.formats.onnx.write.quantizing import quantize_static
from idp_deploy.formats.onnx.write.storing import ENCODINGS, Store, Weight
from idp_deploy.formats.writing import Converted, Written, laid_out, pruned
from idp_deploy.legible import gathered
from idp_deploy.soundness import refuse_float16

PROTOBUF_LIMIT = 2**31 - 2**20  # a message holds 2 GB; what is left is for the graph around the tensors
EXTERNAL_BYTES = 1024  # tensors smaller than this stay inside the message
EXTERNAL_ALIGNMENT = 64  # runtimes map tensors at aligned offsets


@dataclass(frozen=True, eq=False)
class _Source:
    """The graph without its constants, and these."""

    proto: onnx.ModelProto
    constants: Mapping[str, np.ndarray]
    matches: Mapping[str, Match]
    scheme: str | None
    levels: Mapping[str, Levels]  # by parameter
    kept_float: frozenset[str]  # constants that the scheme leaves out
    encoding: str
    external_data_above: int


def convert_onnx(
    captured: Captured,
    quantization: Quantization | None,
    encoding: str,
    *,
    external_data_above: int = PROTOBUF_LIMIT,
) -> Converted:
    """The model as ONNX (opset 18, IR 8) that onnxruntime 1.17 and newer load.

    Args:
        encoding: auto takes the smallest of dense, bitmask, gaps8, gaps5 and gaps4 for each tensor; one of these names
            uses it wherever it is smaller than dense; portable takes gaps only; sparse-initializer uses ONNX's own
            sparse constants.
        external_data_above: a model of more bytes than this keeps its tensors in a second file beside its own.

    Raises:
        UsageError: unknown encoding. ConversionError: an operator that ONNX cannot hold.
    """
    if encoding not in ENCODINGS:
        raise UsageError(f"unknown ONNX encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    if quantization is not None and quantization.scheme.startswith("int8"):
        refuse_float16(captured.original, captured.example_inputs, "ONNX's integers of opset 18 mean float32 numbers")
    proto = convert(captured)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    matches = match(captured, constants)
    kept = set(quantization.kept_float) if quantization else set()
    floats = frozenset(name for name, found in matches.items() if kept & set(found.parameters))
    notes: tuple[str, ...] = ()
    if quantization is not None and quantization.scheme == "int8":
        proto, large = quantize_static(proto, quantization.calibration, floats)
        reason = "activations stay float in layers whose bias is more steps than int32 counts"
        notes = (f"{reason}: {gathered(large)}",) if large else ()
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    del proto.graph.initializer[:]
    scheme = quantization.scheme if quantization else None
    levels = quantization.levels if quantization else {}
    twins = [[p for p in found.parameters if p in captured.masks] for found in matches.values()]
    return Converted(
        _Source(proto, constants, matches, scheme, levels, floats, encoding, external_data_above),
        inputs=tuple(value.name for value in proto.graph.input),
        outputs=tuple(value.name for value in proto.graph.output),
        tensors={p: name for name, found in reversed(matches.items()) for p in found.parameters},  # a twin's first
        fixed=frozenset(p for masked in twins if len(masked) > 1 for p in masked),
        notes=notes,
    )


def store_onnx(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    """The file, with every constant in its smallest form and encoding."""
    source: _Source = converted.source
    weights, unfit = [], set()
    for name, constant in source.constants.items():
        found = source.matches.get(name)
        mask = constant != 0 if found is None else found.kept(masks, constant)
        weight = Weight(name, pruned(constant, mask), mask)
        if name not in source.kept_float:
            levels = _levels(source, found, weight)
            weight, fits = smallest_form(weight, source.scheme, source.encoding, levels)
            unfit |= set() if fits else {name}
        weights.append(weight)
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    decoder = Decoder(proto.graph)
    named = {name for name, found in source.matches.items() if found.parameters}
    store = Store(decoder, source.encoding, weights, nameless=source.constants.keys() - named)
    placed: dict[str, Placement] = {}
    for weight in weights:
        store.add(weight)
        name, found = weight.name, source.matches.get(weight.name)
        placement = Placement(name, store.kinds[name] != "dense", weight.is_narrow, name not in unfit)
        placed |= dict.fromkeys(found.parameters if found is not None else (), placement)
    decoder.finish()
    proto.metadata_props.add(key=manifest.KEY, value=record)
    return Written(partial(_write, proto, external_data_above=source.external_data_above), placed)


def _levels(source: _Source, found: Match | None, plain: Weight) -> Levels | None:
    """What `quantize` made of a constant, as it lies here."""
    known = [source.levels[name] for name in found.parameters if name in source.levels] if found is not None else []
    return laid_out(known[0], found.lay_out, plain.values, plain.mask) if found is not None and known else None


def _write(proto: onnx.ModelProto, path: Path, external_data_above: int) -> int:
    """Write atomically; returns the bytes on disk.

    The second file is named after its content, so that an interrupted command leaves the old pair whole.
    """
    if sum(len(tensor.raw_data) for tensor in proto.graph.initializer) <= external_data_above:
        files.write_bytes(path, proto.SerializeToString(deterministic=True))
        remove_data(path)
        return files.size_bytes(path)
    digest, length = sha256(), 0
    large = [tensor for tensor in proto.graph.initializer if len(tensor.raw_data) >= EXTERNAL_BYTES]
    for tensor in large:
        for part in (b"\0" * (-length % EXTERNAL_ALIGNMENT), tensor.raw_data):
            digest.update(part)
            length += len(part)
    data = path.with_name(data_name(path, digest.hexdigest()))
    with files.replacing(data) as temporary, temporary.open("wb") as handle:
        for tensor in large:
            handle.write(b"\0" * (-handle.tell() % EXTERNAL_ALIGNMENT))
            set_external_data(tensor, data.name, handle.tell(), len(tensor.raw_data))
            handle.write(tensor.raw_data)
            tensor.ClearField("raw_data")
    files.write_bytes(path, proto.SerializeToString(deterministic=True))
    remove_data(path, keep=[data.name])
    return files.size_bytes(path) + files.size_bytes(data)
