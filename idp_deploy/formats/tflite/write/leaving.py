"""Why `restore` leaves the zeros of a weight in a .tflite file."""

from __future__ import annotations

from typing import Any

from idp_deploy.flow import Contents, StoredTensor
from idp_deploy.formats.tflite.write.serializing import parse

_ALONE = "convert that part as a model of its own"
_QUANTIZED = "prune, then quantize the activations as well (full int8), or restore the file in float32"


def why_dense(contents: Contents, tensor: StoredTensor) -> tuple[str, str] | None:
    """(the reason, the way out), None where none of these is it."""
    main, *others = parse(contents.parsed).subgraphs
    here = {_text(one.name): one.buffer for one in main.tensors}
    if tensor.name not in here and tensor.name.startswith(tuple(f"{place}/" for place in range(1, len(others) + 1))):
        return "it lies in the body of a loop or branch, or in another signature than the first", _ALONE
    if here.get(tensor.name) in {one.buffer for graph in others for one in graph.tensors}:
        return "a body or another signature shares it, and reads it whole", _ALONE
    if tensor.dtype == "int8":
        return "runtimes do not load sparse int8 weights beside activations in float32 or int16", _QUANTIZED
    return None


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""
