#!/usr/bin/env bash
# MNN 3.6.1 reads nothing where ONNX counts from the end: a negative index of GatherElements, GatherND and ScatterElements, which the standard
# allows (-1 is the last), gives 0 or, in a GatherND of several axes, another row's entry; what is to be scattered there is lost. Indices that are counted as
# numpy and x[i, j] of torch count them are such. No error, when converting or computing. Gather,
# which has them too, is right, and so are the same places counted from the front, which is the way out. The stand-in for pip keeps the
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


def gather(kind, indices, **attributes):
    return error(helper.make_node(kind, ["x", "i"], ["y"], **attributes), some(3, 4), i=np.array(indices))


def scatter(indices):
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"])
    return error(node, some(3, 4), i=np.array(indices), u=10 * some(1, 4))


rows = {
    "GatherElements": [gather("GatherElements", [[last, 0], [1, last], [0, 2]], axis=1) for last in (3, -1)],
    "GatherND": [gather("GatherND", [[2, 0], [1, last]]) for last in (3, -1)],
    "ScatterElements": [scatter([[last, 0, 1, last]]) for last in (2, -1)],
    "Gather": [gather("Gather", [0, last], axis=1) for last in (3, -1)],
}
for kind, (front, end) in rows.items():
    print(f"MNN 3.6.1 {kind}: off by {front:.2g} with the last place counted from the front, by {end:.2g} with -1")
    assert front < 1e-3 and (end < 1e-3) == (kind == "Gather"), kind
PY
