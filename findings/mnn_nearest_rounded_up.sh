#!/usr/bin/env bash
# MNN 3.6.1 resizes by nearest_mode "ceil" and "round_prefer_ceil" of an ONNX Resize as by floor or by "round_prefer_floor", without an error:
# another pixel is taken, in every coordinate_transformation_mode. "round_prefer_ceil" is right where no place lies halfway,
# "ceil" where the factor gives whole places only. "floor" and "round_prefer_floor" (ONNX's default) are right in all,
# which is the way out. The stand-in for pip keeps the converter from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
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


MODES = ("half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners")
off = {}
for nearest in ("floor", "round_prefer_floor", "ceil", "round_prefer_ceil"):
    for mode in MODES:
        words = {"mode": "nearest", "nearest_mode": nearest, "coordinate_transformation_mode": mode}
        node = helper.make_node("Resize", ["x", "", "f"], ["y"], **words)
        off[nearest, mode] = [error(node, some(1, 1, 6, 6), f=[1, 1, factor, factor]) > 1e-5 for factor in (2, 0.5, 1.5, 3)]
    print("MNN 3.6.1 Resize", nearest, "wrong by factors 2, 1/2, 3/2, 3:", {mode: off[nearest, mode] for mode in MODES})
assert not any(any(off[nearest, mode]) for nearest in ("floor", "round_prefer_floor") for mode in MODES)
assert all(any(off[nearest, mode]) for nearest in ("ceil", "round_prefer_ceil") for mode in MODES)
PY
