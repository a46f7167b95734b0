#!/usr/bin/env bash
# MNN 3.6.1 reads the first factor of a Gemm as it lies where transA=1 says to turn it around: the right size with other numbers, without an error,
# converted from ONNX. Optimizers that put a Transpose into the Gemm behind it (onnxruntime's,
# onnxoptimizer's) write it. transB=1, alpha and beta are right, and so is a Transpose in front of the Gemm, which is the way out. The stand-in for pip keeps the
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


def product(shape, other, **attributes):
    return error(helper.make_node("Gemm", ["x", "w", "c"], ["y"], **attributes), some(*shape), w=some(*other), c=some(5))


turned = product((4, 3), (4, 5), transA=1)
others = {
    "none": product((3, 4), (4, 5)),
    "transB": product((3, 4), (5, 4), transB=1),
    "alpha, beta": product((3, 4), (4, 5), alpha=0.5, beta=2.0),
}
print(f"MNN 3.6.1 Gemm, off with transA=1 by {turned:.2g}, else by", {name: f"{found:.2g}" for name, found in others.items()})
assert turned > 0.1 and max(others.values()) < 1e-3
PY
