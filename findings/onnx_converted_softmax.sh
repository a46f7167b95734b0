#!/usr/bin/env bash
# onnx 1.23.2's version_converter takes a Softmax or LogSoftmax of opset 13 to opset 12 and 11 with the axis it had. Up to opset 12
# an axis meant itself and all that follow, together, so any axis but the last one comes out otherwise: the classes of a pixel of
# 8x8 images, axis 1, no longer add up to 1 but to about 1/64. No error; the full check passes, and onnxruntime computes what the
# new file says. The last axis is right. Up, from 12 to 13, the converter flattens and is right. Way out: Transpose the axis to
# the end and back before converting, or keep opset 13 or newer. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, version_converter

X = np.random.default_rng(0).standard_normal((1, 5, 8, 8)).astype(np.float32)


def model(kind, axis, opset):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], axis=axis)], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def answer(made):
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def definition(kind, axis):
    """By opset 13, in numpy."""
    powers = np.exp(X - X.max(axis, keepdims=True))
    shares = powers / powers.sum(axis, keepdims=True)
    return shares if kind == "Softmax" else np.log(shares)


for kind in ("Softmax", "LogSoftmax"):
    for axis in (1, -1):
        made, right = model(kind, axis, 13), definition(kind, axis)
        assert np.allclose(answer(made), right, atol=1e-5)
        found = {opset: answer(version_converter.convert_version(made, opset)) for opset in (12, 11)}
        off = {opset: round(float(np.abs(one - right).max()), 3) for opset, one in found.items()}
        print("onnx 1.23.2:", kind, "13, axis", axis, "converted to opset 12 and 11 is off by", list(off.values()))
        assert all((one > 0.2) == (axis == 1) for one in off.values())
        if kind == "Softmax" and axis == 1:
            sums = found[12].sum(axis=1)
            print("    a pixel's classes add up to", round(float(sums.mean()), 4), "on average, before it to 1.0")
            assert np.isclose(sums.mean(), 1 / 64)
    older = model(kind, 1, 12)
    assert np.allclose(answer(older), answer(version_converter.convert_version(older, 13)), atol=1e-5), "12 to 13"
PY
