#!/usr/bin/env bash
# MNN 3.6.1 does not stretch the third of several tensors. Max, Min, Sum and Mean of ONNX take any number of tensors and stretch the short
# ones (a row, a column, a single number); MNN does that for two and, from three on, reads behind the short ones' ends: memory that is something else's,
# plausible numbers as well as 1e34, without an error. A Where whose other choice is a row is wrong in every row but the first. Three
# tensors of one shape are right, and so are two Adds (or a Max of two by a Max of two), which is the way out. The stand-in for pip keeps the
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


def several(kind, *others):
    names = [f"o{place}" for place in range(len(others))]
    return error(helper.make_node(kind, ["x", *names], ["y"]), some(8, 32), **dict(zip(names, others)))


def choice(other):
    return error(helper.make_node("Where", ["c", "x", "o"], ["y"]), some(8, 32), c=random.random((8, 32)) < 0.5, o=other)


for kind in ("Max", "Min", "Sum", "Mean"):
    whole, rows = several(kind, some(8, 32), some(8, 32)), several(kind, 3 * some(32), 3 * some(32))
    print(f"MNN 3.6.1 {kind} of three: off by {whole:.2g} where all have one shape, by {rows:.2g} where two are rows")
    assert whole < 1e-3 and rows > 0.01, kind
    if kind != "Mean":
        assert several(kind, 3 * some(32)) < 1e-3, kind
whole, rows = choice(some(8, 32)), choice(3 * some(32))
print(f"MNN 3.6.1 Where: off by {whole:.2g} where both choices have one shape, by {rows:.2g} where one is a row")
assert whole < 1e-3 and rows > 0.01
PY
