#!/usr/bin/env bash
# tract 0.23.9 leaves a factor out of ONNX's Celu: below zero it gives exp(x / alpha) - 1 where the operator is defined as
# alpha * (exp(x / alpha) - 1), in float32 and float16, without an error. alpha = 1 hides it; Elu, with the factor, is right at
# any alpha. Way out: write Celu as a Mul by alpha behind an Elu of x / alpha with alpha = 1. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tract==0.23.9 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper

X = np.array([-4, -2, -1, -0.5, 0, 0.5, 3], np.float32)


def answers(kind, alpha):
    """(onnxruntime's, tract's)."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], alpha=alpha)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    return right, tract.onnx().load("net.onnx").into_model().into_runnable().run([X])[0].to_numpy()


for alpha in (0.5, 1.0, 2.0):
    right, found = answers("Celu", alpha)
    print("tract 0.23.9 Celu alpha", alpha, found.round(4).tolist(), "onnxruntime", right.round(4).tolist())
    below = X < 0
    assert np.allclose(found[below] * alpha, right[below], atol=1e-5) and np.allclose(found[~below], right[~below])
    assert np.allclose(*answers("Elu", alpha), atol=1e-5)
assert not np.allclose(*answers("Celu", 2.0), atol=0.3)
PY
