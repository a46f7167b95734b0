#!/usr/bin/env bash
# MNN 3.6.1 pads a convolution with auto_pad SAME_LOWER as if it were SAME_UPPER: where a border is uneven, ONNX puts the larger part in front, MNN
# behind, and the image is shifted by one place. Kernels of even size and strides of two are such, without an error; the same of ConvTranspose.
# An even border is right (a kernel of three, a stride of one), and so is SAME_UPPER. Way out: write the border as pads. The stand-in for pip keeps the
# converter from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
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


def some(*shape):
    return random.standard_normal(shape).astype(np.float32)


def error(node, x, **stored):
    """MNN's largest error against the largest that onnxruntime gives."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    given = expr.const(x, list(x.shape), expr.NCHW, expr.float)
    found = np.array(net.forward([given])[0].read()).reshape(right.shape)
    return float(np.nan_to_num(np.abs(found - right), nan=np.inf).max() / np.abs(right).max())


def convolution(kind, border, kernel, stride):
    node = helper.make_node(kind, ["x", "w"], ["y"], auto_pad=border, strides=[stride, stride])
    return error(node, some(1, 2, 7, 7), w=some(2, 2, kernel, kernel))


for kind, kernel, stride, even in (("Conv", 3, 1, True), ("Conv", 2, 1, False), ("Conv", 4, 1, False), ("Conv", 2, 2, False), ("ConvTranspose", 3, 2, False)):
    upper, lower = (convolution(kind, border, kernel, stride) for border in ("SAME_UPPER", "SAME_LOWER"))
    print(f"MNN 3.6.1 {kind}, kernel {kernel}, stride {stride}: off by {upper:.2g} with SAME_UPPER, by {lower:.2g} with SAME_LOWER")
    assert upper < 1e-3 and (lower < 1e-3 if even else lower > 0.1), (kind, kernel, stride)
PY
