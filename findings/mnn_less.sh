#!/usr/bin/env bash
# MNN 3.6.1 on x86-64 compares wrongly: Less of two float tensors with more than four entries gives other answers than
# numpy, without an error, whether Cast or Where reads them. LessOrEqual, Greater and GreaterOrEqual of the same numbers are
# right, and so is Less of one number or of four entries. Way out: Greater with the operands swapped. The stand-in for pip
# keeps the converter from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mnn==3.6.1 onnx==1.23.2 numpy==2.4.6
mkdir "$folder/first"; printf '#!/bin/sh\nexit 1\n' > "$folder/first/pip"; chmod +x "$folder/first/pip"
cd "$folder"
PATH="$folder/first:$PATH" venv/bin/python - 2> log <<'PY'
import platform
import subprocess

import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if platform.machine() != "x86_64":
    raise SystemExit("this speaks of x86-64 only")
random = np.random.default_rng(1)
TRUTH = {"Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal}


def wrong(kind, entries, others):
    """How many of the answers are wrong."""
    x, k = random.standard_normal((1, entries)).astype(np.float32), random.standard_normal((1, others)).astype(np.float32)
    nodes = [helper.make_node(kind, ["x", "k"], ["c"]), helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(k, "k")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    found = np.array(net.forward([expr.const(x, list(x.shape), expr.NCHW, expr.float)])[0].read()).reshape(x.shape)
    return int((found != TRUTH[kind](x, k)).sum())


for kind in TRUTH:
    row = {(entries, others): wrong(kind, entries, others) for entries, others in ((4, 4), (40, 1), (16, 16), (40, 40))}
    print("MNN 3.6.1", kind, "wrong answers by (entries, entries compared with):", row)
    assert row[4, 4] == row[40, 1] == 0, kind
    assert (row[16, 16] > 0 and row[40, 40] > 0) == (kind == "Less"), kind
PY
