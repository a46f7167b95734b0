"""Why `restore` leaves the zeros of a weight in an .onnx file."""

from __future__ import annotations

import numpy as np
import onnx

from idp_deploy.flow import Contents, StoredTensor
from idp_deploy.formats.onnx.write.decoding import NARROW_OPSET, WIDER
from idp_deploy.formats.onnx.write.storing import ENCODABLE, is_sound

_NEWER = "write the file with that opset"
_INPUTS = "export without keep_initializers_as_inputs, or take it off the list of the graph's inputs"


def why_dense(contents: Contents, tensor: StoredTensor) -> tuple[str, str] | None:
    """(the reason, the way out), None where none of these is it."""
    model = onnx.load(contents.path, load_external_data=False)
    graph = model.graph
    if tensor.name in {value.name for value in graph.input}:
        return "it stands among the inputs as well, where a caller may replace it", _INPUTS
    if any(pair.key == tensor.name for info in model.training_info for pair in info.update_binding):
        return "a training that the file brings replaces it", "take the training out of the file first"
    values = tensor.values()
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if values.dtype in WIDER and opset < NARROW_OPSET:
        return f"{tensor.dtype} is decoded by operators of ONNX opset {NARROW_OPSET}, and the file has {opset}", _NEWER
    if values.dtype not in ENCODABLE | WIDER.keys():
        return f"numbers in {tensor.dtype} stay as they are", "store them in a float, or in integers of 8 or 16 bits"
    if not is_sound(values):
        return "it holds infinities or NaN, and only finite numbers are decoded", "replace them by finite ones"
    if values.dtype.kind == "f" and np.signbit(values[values == 0]).any():
        return "outputs tell its -0 from 0, and keeping every -0 saves nothing", "use it as it is"
    return None
