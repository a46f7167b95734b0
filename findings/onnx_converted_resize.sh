#!/usr/bin/env bash
# onnx 1.23.2's version_converter changes what a resize computes when it raises a file from opset 9 or 10 (Upsample, Resize) to 11 or newer: the Resize it
# writes has no coordinate_transformation_mode, and the default of opset 11 is half_pixel, where before 11 output x read input x / scale
# (asymmetric; onnxruntime and onnx's tests of 1.5 agree). Every bilinear upsampling of such a file is shifted, doubling by a quarter of
# a pixel, and the file passes the checker (onnx/onnx#8480). Nearest with whole factors comes out right. Hardmax from 11 to 13 changes likewise, keeping an
# axis that means another thing there; Softmax is right on this way. Way out: set asymmetric in what was written, as below. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

X = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
SCALES = np.float32([1, 1, 2, 2])


def model(opset, kind, **attributes):
    stored = [] if kind in ("Softmax", "Hardmax") else [numpy_helper.from_array(SCALES, "s")]
    node = helper.make_node(kind, ["x", *(each.name for each in stored)], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made):
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def asymmetric(made):
    for node in made.graph.node:
        if node.op_type == "Resize":
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    return made


for opset, kind, attributes, to, fits in (
    (9, "Upsample", {"mode": "linear"}, 11, False),
    (9, "Upsample", {"mode": "linear"}, 18, False),
    (10, "Resize", {"mode": "linear"}, 13, False),
    (9, "Upsample", {"mode": "nearest"}, 18, True),
    (11, "Hardmax", {"axis": 1}, 13, False),
    (11, "Softmax", {"axis": 1}, 13, True),
):
    before = model(opset, kind, **attributes)
    raised = version_converter.convert_version(before, to)
    onnx.checker.check_model(raised, full_check=True)
    off = float(np.abs(run(raised) - run(before)).max())
    mended = float(np.abs(run(asymmetric(raised)) - run(before)).max()) if attributes.get("mode") == "linear" else 0.0
    print(f"onnx {onnx.__version__}, {kind} {attributes} from opset {opset} to {to}: off by {off:.2g}; with asymmetric by {mended:.2g}")
    assert (off < 1e-5) == fits and mended < 1e-5, (kind, opset, to)
PY
