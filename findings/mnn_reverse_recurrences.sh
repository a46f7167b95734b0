#!/usr/bin/env bash
# MNN 3.6.1 reads a sequence forwards where an ONNX GRU, LSTM or RNN says direction="reverse": the converted file gives what
# direction="forward" gives with the same weights, without an error. Forward ones are right, and so are bidirectional GRUs and RNNs. Way out:
# reverse the steps in front of the layer and behind it, or run both directions. The stand-in for pip keeps the converter
# from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
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
STEPS = random.standard_normal((7, 2, 6)).astype(np.float32)
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def answers(kind, direction, weights):
    """(onnxruntime's, MNN's) result of all steps."""
    words = {"linear_before_reset": 1} if kind == "GRU" else {}
    names = ["y", "h", "c"] if kind == "LSTM" else ["y"]
    node = helper.make_node(kind, ["x", "w", "r", "b"], names, hidden_size=5, direction=direction, **words)
    last = [len(weights[0]), 2, 5]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
            (("x", STEPS.shape), ("y", [7, *last]), ("h", last), ("c", last))][: len(names) + 1]
    constants = [numpy_helper.from_array(value, name) for name, value in zip("wrb", weights)]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], constants),
                              opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": STEPS})[0]
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], names)
    found = np.array(net.forward([expr.const(STEPS, list(STEPS.shape), expr.NCHW, expr.float)])[0].read())
    return right, found.reshape(right.shape)


for kind, gates in GATES.items():
    sizes = ((1, 5 * gates, 6), (1, 5 * gates, 5), (1, 10 * gates))
    one = [(random.standard_normal(size) / 2).astype(np.float32) for size in sizes]
    both = [np.concatenate([value, value[:, ::-1]]) for value in one]
    ways = {"forward": one, "reverse": one} | ({} if kind == "LSTM" else {"bidirectional": both})
    given = {way: answers(kind, way, weights) for way, weights in ways.items()}
    off = {way: float(np.abs(right - found).max()) for way, (right, found) in given.items()}
    same = float(np.abs(given["reverse"][1] - given["forward"][1]).max())
    print("MNN 3.6.1", kind, "off by", {k: round(v, 3) for k, v in off.items()}, "reverse from forward:", round(same, 4))
    assert off.pop("reverse") > 0.2 and same < 0.01
    assert max(off.values()) < 0.01
PY
