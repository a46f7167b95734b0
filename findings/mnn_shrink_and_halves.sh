#!/usr/bin/env bash
# MNN 3.6.1 computes three ONNX operators otherwise, without an error. Shrink: negative numbers below -lambd come out as 0, and those
# between -lambd and 0 pass (softshrink and hardshrink of torch are 0 there); only the positive side is right. Round: halves go away from zero (0.5 -> 1,
# 2.5 -> 3), where ONNX and torch.round take the even one (0 and 2). ArgMax with select_last_index = 1: of equal
# numbers the first is taken. Ways out: Where(x > l, x - b, Where(x < -l, x + b, 0)); keep halves off; turn the axis around
# in front of ArgMax. The stand-in for pip keeps the converter from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
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


def show(name, given, right, found):
    print(f"MNN 3.6.1 {name} of {given.tolist()}: {found.tolist()}, ONNX {right.tolist()}")


x = np.array([[-2, -0.75, -0.25, 0, 0.25, 0.75, 2]], np.float32)
for bias in (0.0, 0.5):
    right, found = both(helper.make_node("Shrink", ["x"], ["y"], bias=bias, lambd=0.5), x)
    show(f"Shrink, bias {bias}", x, right, found)
    assert np.array_equal(found[x >= 0], right[x >= 0]) and not found[x < -0.5].any()
    assert right[x < -0.5].all() and found[0, 2] and not right[0, 2]
halves = np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.4, 0.6]], np.float32)
right, found = both(helper.make_node("Round", ["x"], ["y"]), halves)
show("Round", halves, right, found)
assert found.tolist() == [[-3, -2, -1, 1, 2, 3, 0, 1]] and right.tolist() == [[-2, -2, 0, 0, 2, 2, 0, 1]]
equal = np.array([[1, 3, 3, 2, 3]], np.float32)
for last, index in ((0, 1), (1, 4)):
    right, found = both(helper.make_node("ArgMax", ["x"], ["y"], axis=1, select_last_index=last), equal, TensorProto.INT64)
    show(f"ArgMax, select_last_index {last}", equal, right, found)
    assert right.tolist() == [[index]] and found.tolist() == [[1]]
PY
