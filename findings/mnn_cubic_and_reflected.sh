#!/usr/bin/env bash
# MNN 3.6.1 samples images at other places than ONNX says, without an error: a cubic Resize by half pixels (what
# torch.onnx writes for bicubic upsampling), GridSample with padding_mode="reflection" in any mode, and bicubic GridSample with
# any border, off by 0.15 to 1.6 of the largest value. Cubic from corner to corner or asymmetric, linear and nearest Resize,
# and bilinear GridSample with a border of zeros or of the edge are right. Way out: these, or another runtime. The stand-in
# for pip keeps the converter from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mnn==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
mkdir "$folder/first"; printf '#!/bin/sh\nexit 1\n' > "$folder/first/pip"; chmod +x "$folder/first/pip"
cd "$folder"
PATH="$folder/first:$PATH" venv/bin/python - 2> log <<'PY'
import subprocess

import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
IMAGE = random.standard_normal((1, 4, 12, 12)).astype(np.float32)
PLACES = (random.random((1, 5, 5, 2)) * 2.6 - 1.3).astype(np.float32)
HALVES = np.float32([1, 1, 1.5, 1.5])


def off(kind, inputs, constant, shape, **words):
    """How far MNN is from onnxruntime, of the largest value."""
    node = helper.make_node(kind, ["x", *inputs], ["y"], **words)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", IMAGE.shape), ("y", shape))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(constant, inputs[-1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": IMAGE})[0]
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    found = net.forward([expr.const(IMAGE, list(IMAGE.shape), expr.NCHW, expr.float)])[0]
    found = np.array((expr.convert(found, expr.NCHW) if found.data_format == expr.NC4HW4 else found).read())
    return float(np.abs(found.reshape(right.shape) - right).max() / np.abs(right).max())


resized = {
    (mode, way): off("Resize", ["", "s"], HALVES, [1, 4, 18, 18], mode=mode, coordinate_transformation_mode=way)
    for mode in ("linear", "cubic") for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
}
sampled = {
    (mode, border): off("GridSample", ["g"], PLACES, [1, 4, 5, 5], mode=mode, padding_mode=border)
    for mode in ("bilinear", "bicubic") for border in ("zeros", "border", "reflection")
}
for title, table in (("Resize", resized), ("GridSample", sampled)):
    print("MNN 3.6.1", title, {" ".join(key): round(value, 3) for key, value in table.items()})
wrong = {key for key, value in (resized | sampled).items() if value > 0.1}
assert wrong == {("cubic", "half_pixel"), ("cubic", "pytorch_half_pixel"), ("bilinear", "reflection"),
                 ("bicubic", "zeros"), ("bicubic", "border"), ("bicubic", "reflection")}, wrong
assert max(value for key, value in (resized | sampled).items() if key not in wrong) < 0.01
PY
