#!/usr/bin/env bash
# MNN 3.6.1 leaves the axes of ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp and ReduceSumSquare out where they are an
# input, as ONNX has them since opset 18: all axes are reduced to one number, without an error. ReduceMean, ReduceMax and
# ReduceSum with the same input are right, and so are these norms where the axes are an attribute (opset 13). The stand-in
# for pip keeps the converter from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mnn==3.6.1 onnx==1.23.2 numpy==2.4.6
mkdir "$folder/first"; printf '#!/bin/sh\nexit 1\n' > "$folder/first/pip"; chmod +x "$folder/first/pip"
cd "$folder"
PATH="$folder/first:$PATH" venv/bin/python - 2> log <<'PY'
import subprocess

import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

x = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
TRUTH = {
    "ReduceL1": lambda **how: np.abs(x).sum(**how),
    "ReduceL2": lambda **how: np.sqrt((x**2).sum(**how)),
    "ReduceLogSum": lambda **how: np.log(x.sum(**how)),
    "ReduceLogSumExp": lambda **how: np.log(np.exp(x).sum(**how)),
    "ReduceSumSquare": lambda **how: (x**2).sum(**how),
    "ReduceMean": x.mean,
    "ReduceMax": x.max,
    "ReduceSum": x.sum,
}


def reduced(kind, opset):
    """What MNN makes of `kind` over the second axis."""
    as_input = opset >= 18 or kind == "ReduceSum"
    words = {"keepdims": 1} if as_input else {"keepdims": 1, "axes": [1]}
    stored = [numpy_helper.from_array(np.array([1]), "axes")] if as_input else []
    node = helper.make_node(kind, ["x", *(tensor.name for tensor in stored)], ["y"], **words)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1, 4]))
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    return np.array(net.forward([expr.const(x, list(x.shape), expr.NCHW, expr.float)])[0].read())


for kind, truth in TRUTH.items():
    wanted, all_axes = truth(axis=1, keepdims=True), truth()
    new, old = reduced(kind, 18), reduced(kind, 13)
    print(f"{kind:16} wanted {wanted.shape}; opset 18 gives {new.shape}, {new.reshape(-1)[:1]} (all axes: {all_axes:.5g}); opset 13 {old.shape}")
    assert np.allclose(old, wanted, rtol=1e-4), kind
    is_norm = kind not in ("ReduceMean", "ReduceMax", "ReduceSum")
    assert (new.size == 1 and np.allclose(new, all_axes, rtol=1e-3)) if is_norm else np.allclose(new, wanted, rtol=1e-4), kind
PY
