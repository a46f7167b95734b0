"""export to ONNX: onnxruntime has no sparse kernels, so zeros save disk and download here — neither memory nor time.

Sparse encoding comes last, after every graph pass and after quantization; each tensor takes the encoding that is
smallest in this file, decode nodes included.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from idp_deploy import files
from idp_deploy.capturing import capture
from idp_deploy.errors import UsageError
from idp_deploy.exporting.randomness import refuse_random
from idp_deploy.flow import Artifact, CompressedModel
from idp_deploy.formats import manifest
from idp_deploy.formats.external_data import data_name, remove_data
from idp_deploy.formats.notes import Placement, storage_notes
from idp_deploy.formats.onnx.write.conversion import convert
from idp_deploy.formats.onnx.write.decoding import Decoder
from idp_deploy.formats.onnx.write.matching import Match, match
from idp_deploy.formats.onnx.write.number_forms import smallest_form
from idp_deploy.formats.onnx.write.quantizing import quantize_static
from idp_deploy.formats.onnx.write.storing import ENCODINGS, Store, Weight, choose

PROTOBUF_LIMIT = 2**31 - 2**20  # a message holds 2 GB; what is left is for the graph around the tensors
EXTERNAL_BYTES = 1024  # tensors smaller than this stay inside the message
EXTERNAL_ALIGNMENT = 64  # runtimes map tensors at aligned offsets


def export_onnx(
    model: CompressedModel,
    example_inputs: tuple[Any, ...],
    path: Path,
    *,
    encoding: str = "auto",
    dynamic_batch: bool = True,
    external_data_above: int = PROTOBUF_LIMIT,
) -> Artifact:
    """Write `model` as ONNX (opset 18, IR 8) that onnxruntime 1.17 and newer load.

    Args:
        encoding: auto takes the smallest of dense, bitmask, gaps8 and gaps4 for each tensor; one of these names uses
            it wherever it is smaller than dense; portable takes gaps8 and gaps4 only; sparse-initializer uses ONNX's
            own sparse constants.
        dynamic_batch: leave the batch free where the model allows it.
        external_data_above: a model of more bytes than this keeps its tensors in a second file beside `path`.

    Raises:
        UsageError: unknown encoding. ConversionError: an operator that ONNX cannot hold.
    """
    path = Path(path)
    if encoding not in ENCODINGS:
        raise UsageError(f"unknown ONNX encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    captured = capture(model, example_inputs, dynamic_batch=dynamic_batch)
    refuse_random(captured)
    proto = convert(captured)
    notes = [] if captured.dynamic_batch or not dynamic_batch else ["the model fixes its batch: the file does too"]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    matches = match(captured, tensors)
    quantization = model.quantization
    kept_float = set(quantization.kept_float) if quantization else set()
    floats = {name for name, found in matches.items() if kept_float & set(found.parameters)}
    if quantization is not None and quantization.scheme == "int8":
        proto = quantize_static(proto, quantization.calibration, floats)
    placed = _encode(proto.graph, matches, quantization.scheme if quantization else None, floats, encoding)
    notes += [*captured.notes, *storage_notes(model, placed, encoding)]
    entry = manifest.build(
        model,
        inputs=[value.name for value in proto.graph.input],
        outputs=[value.name for value in proto.graph.output],
        weights={p: name for name, found in reversed(matches.items()) for p in found.parameters},  # a twin's first
        options={"encoding": encoding, "dynamic_batch": dynamic_batch},
        packages=("torch", "onnx", "onnxscript"),
    )
    proto.metadata_props.add(key=manifest.KEY, value=manifest.dumps(entry))
    size = _write(proto, path, external_data_above)
    return Artifact(path, "onnx", size, entry, tuple(notes))


def _encode(
    graph: onnx.GraphProto, matches: Mapping[str, Match], scheme: str | None, kept_float: Collection[str], encoding: str
) -> dict[str, Placement]:
    """Replace the initializers by their encoded form, in place; how each parameter lies now."""
    weights = []
    placed: dict[str, Placement] = {}
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        found = matches.get(tensor.name)
        mask = values != 0 if found is None else found.mask | (values != 0)
        weight = Weight(tensor.name, values, mask)
        weight = weight if tensor.name in kept_float else smallest_form(weight, scheme, encoding)
        weights.append(weight)
        placement = Placement(tensor.name, choose(weight, encoding) != "dense", weight.is_narrow)
        placed |= dict.fromkeys(found.parameters if found is not None else (), placement)
    del graph.initializer[:]
    decoder = Decoder(graph)
    store = Store(decoder, encoding, weights)
    for weight in weights:
        store.add(weight)
    decoder.finish()
    return placed


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
