#!/usr/bin/env bash
# onnx2torch 1.5.15 reads two of the attributes of ONNX's Resize. Every nearest one becomes torch's "nearest", which is asymmetric places rounded down, so
# half_pixel (ONNX's default, and what F.interpolate(mode="nearest-exact") exports) takes other pixels; a linear or cubic one by
# "asymmetric" places (TensorFlow 1, opset 10 raised to 11) becomes one of half pixels; cubic_coeff_a (-0.5 of TensorFlow and Pillow) stays torch's -0.75. A
# ConvTranspose loses its output_shape likewise. No error, no warning; onnxruntime and onnx's own reference agree with each other. What torch's "nearest", "bilinear" and "bicubic" mean is right. An
# empty stand-in for torchvision, which other operators need, keeps the script small. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --no-deps onnx2torch==1.5.15
"$folder/venv/bin/python" - 2> "$folder/errors" <<'PY' | grep "^onnx2torch\|^holds\|^changed"
import sys
from unittest.mock import MagicMock

sys.modules["torchvision"] = sys.modules["torchvision.ops"] = MagicMock()

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx2torch import convert

X = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
CASES = (  # mode, places, further attributes, whether onnx2torch is right
    ("nearest", "half_pixel", {}, False),
    ("nearest", "asymmetric", {"nearest_mode": "floor"}, True),
    ("nearest", "asymmetric", {"nearest_mode": "ceil"}, False),
    ("linear", "half_pixel", {}, True),
    ("linear", "asymmetric", {}, False),
    ("cubic", "half_pixel", {}, True),
    ("cubic", "asymmetric", {}, False),
    ("cubic", "half_pixel", {"cubic_coeff_a": -0.5}, False),
)


def answers(node, stored):
    """(onnxruntime's, onnx2torch's)."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = convert(model).eval()(torch.from_numpy(X)).detach().numpy()
    right = session.run(None, {"x": X})[0]
    if node.op_type == "Resize":
        assert np.allclose(right, ReferenceEvaluator(model).run(None, {"x": X})[0], atol=1e-4)
    return right, found


holds = True
for mode, places, further, expected in CASES:
    attributes = {"mode": mode, "coordinate_transformation_mode": places, **further}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    right, found = answers(node, {"sizes": np.array([1, 2, 10, 4])})
    wrong = float(np.abs(found - right).max())
    print("onnx2torch 1.5.15, Resize", attributes, f"off by {wrong:.2g}", flush=True)
    holds &= wrong < 1e-4 if expected else wrong > 0.05
node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[10, 12])
right, found = answers(node, {"w": np.ones((2, 4, 3, 3), np.float32)})
print("onnx2torch 1.5.15, ConvTranspose(output_shape=[10, 12]):", found.shape[2:], "onnxruntime:", right.shape[2:], flush=True)
holds &= right.shape[2:] == (10, 12) and found.shape[2:] == (11, 13)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
