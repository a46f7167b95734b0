#!/usr/bin/env bash
# OpenVINO 2026.4.1 cuts the bias of an LRN off to a whole number on the CPU (1.5 counts as 1, 0.5 as 0, also where the
# model is built by its own operators), and reads an ONNX LSTM without its peepholes and without `input_forget`, all without
# an error. The numbers wanted are numpy's, by ONNX's own formulas, and onnxruntime 1.31.1's. Biases of 1 and 2 and
# an LSTM without these are right. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
import numpy as np, onnx, onnxruntime, openvino
from onnx import TensorProto as T, helper as h, numpy_helper as nh

random = np.random.default_rng(0)
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
path = f"{sys.argv[1]}/m.onnx"


def both(x, shape, node, constants):
    """(onnxruntime's, OpenVINO's) first output of one operator."""
    ends = [h.make_tensor_value_info("x", T.FLOAT, x.shape), h.make_tensor_value_info("y", T.FLOAT, shape)]
    tensors = [nh.from_array(array, name) for name, array in constants.items()]
    model = h.make_model(h.make_graph([node], "g", ends[:1], ends[1:], tensors), opset_imports=[h.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return wanted, openvino.Core().compile_model(path, "CPU", EXACT)({"x": x})[0]


def off(got, wanted):
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


x = random.standard_normal((1, 16, 4, 5)).astype(np.float32)


def by_formula(bias):
    squares = np.pad(x.astype(float) ** 2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    return x / (bias + 0.2 / 3 * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:])) ** 0.75


for bias in (1.0, 1.5, 2.0, 2.7):
    node = h.make_node("LRN", ["x"], ["y"], size=3, alpha=0.2, beta=0.75, bias=bias)
    wanted, got = both(x, x.shape, node, {})
    print(f"LRN, bias {bias}: onnxruntime off by {off(wanted, by_formula(bias)):.1e}, OpenVINO by {off(got, by_formula(bias)):.1e},"
          f" from a bias of {int(bias)} by {off(got, by_formula(int(bias))):.1e}")
    assert off(wanted, by_formula(bias)) < 1e-5 and off(got, by_formula(int(bias))) < 1e-5
    assert (off(got, by_formula(bias)) > 0.05) == (bias % 1 > 0)

from openvino import opset13 as op
parameter = op.parameter(list(x.shape), np.float32)
plain = openvino.Model([op.lrn(parameter, op.constant(np.array([1])), 0.2, 0.75, 1.5, 3)], [parameter], "lrn")
got = openvino.Core().compile_model(plain, "CPU", EXACT)(x)[0]
print(f"its own operator, bias 1.5: off by {off(got, by_formula(1.5)):.1e}")
assert off(got, by_formula(1.5)) > 0.05 and off(got, by_formula(1)) < 1e-5

steps = random.standard_normal((6, 1, 4)).astype(np.float32)
shapes = {"W": (1, 12, 4), "R": (1, 12, 3), "B": (1, 24), "P": (1, 9)}
stored = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
for name, inputs, words in (
    ("plain", ["W", "R", "B"], {}),
    ("with peepholes", ["W", "R", "B", "", "", "", "P"], {}),
    ("with input_forget", ["W", "R", "B"], {"input_forget": 1}),
):
    node = h.make_node("LSTM", ["x", *inputs], ["y"], hidden_size=3, **words)
    wanted, got = both(steps, (6, 1, 1, 3), node, {key: stored[key] for key in inputs if key})
    print(f"LSTM {name}: OpenVINO is off by {off(got, wanted):.1e}")
    assert (off(got, wanted) > 0.05) == (name != "plain")
PY
