#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93) takes x · HardSigmoid(y) of slope 1/6 for HardSwish(y) although x is
# another value: a gate as in squeeze-and-excite comes out in the shape of y, with other numbers and without an error,
# in both engines. With the next slope, 0.1666667, the same graph is right. onnxruntime 1.31.1 runs both alike, and
# onnx's full check accepts them. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.31.1 numpy
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
import cv2, numpy as np, onnx, onnxruntime
from onnx import TensorProto as T, helper as h, numpy_helper as nh

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 8, 6, 6)).astype(np.float32)


def model(slope):
    n = h.make_node
    nodes = [n("GlobalAveragePool", ["x"], ["p"]), n("Conv", ["p", "w"], ["c"]),
             n("HardSigmoid", ["c"], ["g"], alpha=slope, beta=0.5), n("Mul", ["x", "g"], ["y"])]
    ends = [h.make_tensor_value_info(name, T.FLOAT, [1, 8, 6, 6]) for name in "xy"]
    weight = nh.from_array(np.random.default_rng(1).standard_normal((8, 8, 1, 1)).astype(np.float32), "w")
    m = h.make_model(h.make_graph(nodes, "g", ends[:1], ends[1:], [weight]), opset_imports=[h.make_opsetid("", 18)])
    m.ir_version = 8
    onnx.checker.check_model(m, full_check=True)
    return m


found = {}
for slope in (1 / 6, 0.1666667):
    path = f"{sys.argv[1]}/m.onnx"
    onnx.save(model(slope), path)
    wanted = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    for engine in (cv2.dnn.ENGINE_NEW, cv2.dnn.ENGINE_CLASSIC):
        net = cv2.dnn.readNetFromONNX(path, engine)
        net.setInput(x, "x")
        got = net.forward()
        found[slope, engine] = got.shape == wanted.shape and np.abs(got - wanted).max() < 1e-5
        print(slope, engine, got.shape, "right" if found[slope, engine] else "wrong")
assert [right for (slope, _), right in found.items() if slope == 1 / 6] == [False, False]
assert [right for (slope, _), right in found.items() if slope != 1 / 6] == [True, True]
PY
