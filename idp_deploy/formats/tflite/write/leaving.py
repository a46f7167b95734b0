"""Why `restore` leaves the zeros of a weight in a .tflite file."""

from __future__ import annotations

from idp_deploy.flow import Contents, StoredTensor
from idp_deploy.formats.tflite.write.graph import constants
from idp_deploy.formats.tflite.write.serializing import parse
from idp_deploy.formats.tflite.write.storing import WEIGHTS

_QUANTIZED = "prune, then quantize the activations as well (full int8), or restore the file in float32"
_WIDER = "quantize in 8 bits, the activations as well, or restore the file in float32"
_ALONE = "store it a second time for them, or convert that part as a model of its own"


def why_dense(contents: Contents, tensor: StoredTensor) -> tuple[str, str] | None:
    """(the reason, the way out), None where none of these is it."""
    if tensor.dtype == "int8":
        return "runtimes do not load sparse int8 weights beside activations in float32 or int16", _QUANTIZED
    if tensor.dtype in ("int2", "int4"):
        return f"numbers in {tensor.dtype} stay as they are", _WIDER
    model = parse(contents.parsed)
    named = {tensor.name, tensor.name.partition("/")[2]}
    held = [c for place in range(len(model.subgraphs)) for c in constants(model, floats_only=False, place=place)]
    of = {id(c): model.subgraphs[c.place].tensors[c.index] for c in held}
    buffers = {one.buffer for one in of.values() if _text(one.name) in named}
    readers = {word for c in held if of[id(c)].buffer in buffers for word, _ in c.readers}
    others = readers - {*WEIGHTS, "DEQUANTIZE"}
    if others and len(others) < len(readers):
        return f"another operator or signature reads it whole ({', '.join(sorted(others))})", _ALONE
    return None


def _text(name: object) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")
