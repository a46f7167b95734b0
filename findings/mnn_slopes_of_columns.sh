#!/usr/bin/env bash
# MNN 3.6.1 gives the slopes of an ONNX PRelu to channels (axis 1) wherever their shape has one axis, without an error. ONNX
# aligns shapes at their ends: slopes of shape (6,) belong to the last axis, as torch writes them for tokens (batch, steps, features).
# Outputs are off by 0.4 to 0.6 of the largest one, also where axis 1 has another length than there are slopes. Slopes
# of shape (1, 1, 6), (6, 1, 1) or (4, 6), and inputs of two axes, are right: giving slopes as many axes as the input is the way out. The stand-in
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


def some(*shape):
    return random.standard_normal(shape).astype(np.float32)


def both(node, x, kind=TensorProto.FLOAT, **stored):
    """What onnxruntime and MNN make of one node."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", kind, None)]
    constants = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in stored.items()]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    found = expr.convert(net.forward([expr.const(x, list(x.shape), expr.NCHW, expr.float)])[0], expr.NCHW)
    return right, np.array(found.read()).reshape(right.shape)


def error(*arguments, **stored):
    """The largest difference, of the largest output."""
    right, found = both(*arguments, **stored)
    return float(np.nan_to_num(np.abs(found - right), nan=np.inf).max() / np.abs(right).max())


def slopes(size, *shape):
    return error(helper.make_node("PRelu", ["x", "s"], ["y"]), some(*size), s=np.linspace(0.1, 0.9, int(np.prod(shape))).reshape(shape))


wrong = {"tokens (2, 5, 6)": slopes((2, 5, 6), 6), "image (1, 6, 4, 6)": slopes((1, 6, 4, 6), 6)}
right = {
    "all axes": slopes((2, 5, 6), 1, 1, 6),
    "of channels": slopes((1, 6, 4, 6), 6, 1, 1),
    "two axes": slopes((1, 6, 4, 6), 4, 6),
    "rows (3, 6)": slopes((3, 6), 6),
}
print("MNN 3.6.1 PRelu with 6 slopes of the last axis, off by", wrong, "else by", right)
assert min(wrong.values()) > 0.1 and max(right.values()) < 1e-5
PY
