#!/usr/bin/env bash
# MNN 3.6.1 leaves attributes of ONNX's recurrent layers out. A GRU with linear_before_reset=0 (the standard's default, the paper's, Keras's
# reset_after=False) is computed as with 1, an RNN of ReLU (torch's nn.RNN(nonlinearity="relu")) as one of tanh, and clip not at all: other
# numbers, without an error when converting or computing. linear_before_reset=1, as torch exports every nn.GRU, and RNNs of tanh are right. Ways out: steps written
# as plain operators, or layers of those kinds. The stand-in for pip keeps the
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


def recurrent(kind, gates, **attributes):
    node = helper.make_node(kind, ["x", "w", "r", "b"], ["y"], hidden_size=8, **attributes)
    return error(node, 2 * some(6, 2, 5), w=some(1, gates * 8, 5), r=some(1, gates * 8, 8), b=some(1, 2 * gates * 8))


for kind, gates, attributes, fits in (
    ("GRU", 3, {"linear_before_reset": 1}, True),
    ("GRU", 3, {}, False),
    ("GRU", 3, {"linear_before_reset": 1, "clip": 0.5}, False),
    ("RNN", 1, {}, True),
    ("RNN", 1, {"activations": ["Tanh"]}, True),
    ("RNN", 1, {"activations": ["Relu"]}, False),
):
    found = recurrent(kind, gates, **attributes)
    print(f"MNN 3.6.1 {kind} {attributes}: off by {found:.2g}")
    assert found < 1e-3 if fits else found > 0.05, (kind, attributes)
PY
