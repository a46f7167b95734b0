#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93), new engine, puts the border that `auto_pad` asks for on the wrong side
# where it is uneven: SAME_UPPER with a stride of 2 has the larger one in front, SAME_LOWER with a stride of 1 behind, in
# Conv, MaxPool and AveragePool alike, without an error. ONNX says the opposite of both (the extra place is at the end
# for SAME_UPPER and at the beginning for SAME_LOWER); onnxruntime 1.31.1 does so, and OpenCV does where the same border is
# written as `pads`. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
import cv2, numpy as np, onnx, onnxruntime
from onnx import TensorProto as T, helper as h, numpy_helper as nh

random = np.random.default_rng(0)
x = random.standard_normal((1, 4, 8, 8)).astype(np.float32)
path = f"{sys.argv[1]}/m.onnx"


def off(kind, span, step, **border):
    """How far OpenCV is from onnxruntime, of the largest number."""
    words = {"strides": [step, step], **border} | ({} if kind == "Conv" else {"kernel_shape": [span, span]})
    weights = [nh.from_array(random.standard_normal((4, 4, span, span)).astype(np.float32), "w")] if kind == "Conv" else []
    ends = [h.make_tensor_value_info("x", T.FLOAT, x.shape), h.make_tensor_value_info("y", T.FLOAT, [1, 4, 8 // step, 8 // step])]
    graph = h.make_graph([h.make_node(kind, ["x", *(w.name for w in weights)], ["y"], **words)], "g", ends[:1], ends[1:], weights)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    net = cv2.dnn.readNetFromONNX(path, cv2.dnn.ENGINE_NEW)
    net.setInput(x, "x")
    got = net.forward()
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


for kind in ("Conv", "MaxPool", "AveragePool"):
    found = {
        "SAME_UPPER, span 3, stride 2": off(kind, 3, 2, auto_pad="SAME_UPPER"),
        "SAME_LOWER, span 2, stride 1": off(kind, 2, 1, auto_pad="SAME_LOWER"),
        "SAME_LOWER, span 3, stride 2": off(kind, 3, 2, auto_pad="SAME_LOWER"),
        "SAME_UPPER, span 2, stride 1": off(kind, 2, 1, auto_pad="SAME_UPPER"),
        "SAME_UPPER, span 3, stride 1": off(kind, 3, 1, auto_pad="SAME_UPPER"),
        "pads, span 3, stride 2": off(kind, 3, 2, pads=[0, 0, 1, 1]),
        "pads, span 2, stride 1": off(kind, 2, 1, pads=[1, 1, 0, 0]),
    }
    for border, error in found.items():
        print(f"{kind:12} {border:30} {error:.2g}")
    wrong = [border for border, error in found.items() if error > 0.1]
    assert wrong == ["SAME_UPPER, span 3, stride 2", "SAME_LOWER, span 2, stride 1"], wrong
    assert all(error < 1e-5 for border, error in found.items() if border not in wrong)
PY
