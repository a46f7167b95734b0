#!/usr/bin/env bash
# onnx2torch 1.5.15 sums from the end where ONNX sums from the beginning: it takes 1 for a `reverse` that a CumSum leaves out, where the
# standard says 0. [1, 2, 3, 4] becomes [10, 9, 7, 4] in place of [1, 3, 6, 10], without an error: positions counted over a mask run
# backwards. IsInf fares alike, whose detect_negative=0 is not read. onnxruntime and numpy agree with the standard. A written
# `reverse=0`, as torch.onnx has it, is right (the way out). onnx2torch needs torchvision for other operators; an empty stand-in keeps the
# script small. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --no-deps onnx2torch==1.5.15
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^onnx2torch\|^holds\|^changed"
import sys
from unittest.mock import MagicMock

sys.modules["torchvision"] = sys.modules["torchvision.ops"] = MagicMock()

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx2torch import convert

X = np.array([1, 2, 3, 4], np.float32)


def answers(model, x):
    """(onnxruntime's, onnx2torch's)."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    right = session.run(None, {session.get_inputs()[0].name: x})[0]
    return right.tolist(), convert(model).eval()(torch.from_numpy(x)).tolist()


def one(kind, given, stored=(), **attributes):
    node = helper.make_node(kind, ["x", *stored], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]), helper.make_tensor_value_info("y", given, [4])]
    constants = [numpy_helper.from_array(np.array(0), name) for name in stored]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


right, found = answers(one("CumSum", TensorProto.FLOAT, ["a"]), X)
print("onnx2torch 1.5.15, CumSum:", found, "onnxruntime:", right, flush=True)
holds = right == np.cumsum(X).tolist() and found == np.cumsum(X[::-1])[::-1].tolist()
for reverse in (0, 1):
    right, found = answers(one("CumSum", TensorProto.FLOAT, ["a"], reverse=reverse), X)
    holds &= right == found
infinite = np.array([-np.inf, 0, np.inf, 1], np.float32)
right, found = answers(one("IsInf", TensorProto.BOOL, detect_negative=0), infinite)
print("onnx2torch 1.5.15, IsInf(detect_negative=0) of -inf, 0, inf, 1:", found, "onnxruntime:", right, flush=True)
holds &= right == [False, False, True, False] and found == [True, False, True, False]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
