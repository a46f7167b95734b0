#!/usr/bin/env bash
# onnxruntime 1.31.1 and 1.32.0: quantize_static gives two kinds of results a range that cannot hold them, without a warning:
# - a cubic Resize (F.interpolate(mode="bicubic")) takes the scale and zero point of what it resizes, as operators do that only move numbers. A cubic overshoots at
#   edges, and what lies beyond the largest number of the input is cut off: a step between two grey values loses its ringing, 0.08 of the largest value,
#   with 16 bits as with 8, as QDQ (QOperator is an error when it runs). Nearest and linear ones are right. Way out: nodes_to_exclude=[the Resize],
# - with CalibTensorRangeSymmetric=True a Relu or Clip is still taken away, since the range of what follows cuts at zero; but that range is now
#   symmetric, and all negative numbers come through, as QDQ and QOperator: off by as much as the largest one, a network without its activations. For ActivationSymmetric this was mended
#   (microsoft/onnxruntime#11696, #9425). Way out: ActivationSymmetric=True, or QDQKeepRemovableActivations=True (QDQ).
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ranges.py <<'PY'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

logging.disable(logging.WARNING)
some = np.random.default_rng(0).standard_normal
STEP = np.where(np.arange(10) < 5, 0.2, 1.0) * np.ones((1, 4, 10, 10))
NOISE = some((1, 4, 10, 10))
WEIGHT = some((4, 4, 1, 1)) / 2
DOUBLE = np.float32([1, 1, 2, 2])


class Samples(CalibrationDataReader):
    def __init__(self, x):
        self.left = iter([{"x": x}] * 2)

    def get_next(self):
        return next(self.left, None)


def answer(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def off(nodes, stored, x, **options):
    """How far the quantized file is off on the data that it was calibrated on, of the largest number."""
    x = x.astype(np.float32)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    quantize_static("float.onnx", "int8.onnx", Samples(x), **options)
    right = answer("float.onnx", x)
    return float(np.abs(answer("int8.onnx", x) - right).max() / np.abs(right).max())


def resized(mode, **options):
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Resize", ["c", "", "f"], ["y"], name="resize", mode=mode)]
    return off(nodes, {"w": np.eye(4).reshape(4, 4, 1, 1), "f": DOUBLE}, STEP, **options)


def active(kind, inputs, **options):
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node(kind, ["c", *inputs], ["y"], name="activation")]
    return off(nodes, {"w": WEIGHT} | {name: {"zero": 0, "six": 6}[name] for name in inputs}, NOISE, **options)


print("onnxruntime", onnxruntime.__version__)
for form in QuantFormat:
    for mode, wrong in (("cubic", True), ("linear", False), ("nearest", False)):
        if mode == "cubic" and form == QuantFormat.QOperator:
            continue  # an error when it runs
        found = resized(mode, quant_format=form)
        print(f"{form}: a step, resized by {mode}: off by {found:.3f}")
        assert found > 0.05 if wrong else found < 0.02
    for kind, inputs in (("Relu", []), ("Clip", ["zero", "six"])):
        for extra, wrong in (({"CalibTensorRangeSymmetric": True}, True), ({}, False), ({"ActivationSymmetric": True}, False),
                             ({"CalibTensorRangeSymmetric": True, "ActivationSymmetric": True}, False)):
            found = active(kind, inputs, quant_format=form, extra_options=extra, activation_type=QuantType.QInt8)
            print(f"{form}: {kind}, {extra}: off by {found:.3f}")
            assert found > 0.5 if wrong else found < 0.03
sixteen = resized("cubic", activation_type=QuantType.QUInt16, extra_options={"UseQDQContribOps": True})
kept = resized("cubic", nodes_to_exclude=["resize"])
symmetric = {"CalibTensorRangeSymmetric": True, "QDQKeepRemovableActivations": True}
print(f"cubic in 16 bits: off by {sixteen:.3f}; left out: {kept:.3f}; a Relu that is kept: {active('Relu', [], extra_options=symmetric):.3f}")
assert sixteen > 0.05 and kept < 0.02 and active("Relu", [], extra_options=symmetric) < 0.03
PY
for version in 1.31.1 1.32.0; do
    python3 -m venv "venv$version"
    "venv$version/bin/pip" install --quiet onnx==1.23.2 onnxruntime==$version numpy==2.4.6
    "venv$version/bin/python" ranges.py
done
