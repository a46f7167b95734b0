#!/usr/bin/env bash
# onnxruntime 1.32.0's quantize_static takes a Clip behind a convolution away although its bounds lie on one side of zero. It lets the integers' range,
# measured behind the Clip, cut in its place; but a range is widened until it holds zero: [0.5, 2] becomes [0, 2] and what was at least 0.5 is 0,
# [-3, -1] becomes [-3, 0]. So clamp(min=0.5) in front of a division or a logarithm keeps nothing away from zero, and 1 / x is inf. QDQ and
# QOperator, 8 and 16 bits, without a warning. Bounds that hold zero, such as Relu6, are right, and so is a Clip that stays, which is the way out:
# QDQKeepRemovableActivations=True (QDQ) or nodes_to_exclude=[the Clip]. For symmetric activations, which cannot cut at zero, Clips stay since
# microsoft/onnxruntime#11696. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - 2>/dev/null <<'PY'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

logging.disable(logging.WARNING)
random = np.random.default_rng(0)
samples = [random.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(8)]
weight = random.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = iter(samples)

    def get_next(self):
        return next(({"x": sample} for sample in self.left), None)


def computed(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": samples[0]})


def off(low, high, form, bits=8, exclude=(), **extra):
    """How far the clipped map is off, of the largest number; and whether one divided by it is still finite."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, s, s]) for name, n, s in (("x", 3, 8), ("kept", 4, 6), ("over", 4, 6))]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Clip", ["c", "low", "high"], ["kept"], "clip"),
        helper.make_node("Reciprocal", ["kept"], ["over"]),
    ]
    stored = [numpy_helper.from_array(np.float32(v), k) for k, v in (("w", weight), ("low", low), ("high", high))]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], stored), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    kind = QuantType.QUInt8 if bits == 8 else QuantType.QUInt16
    kinds = {"activation_type": kind, "weight_type": QuantType.QInt8, "nodes_to_exclude": list(exclude)}
    quantize_static("float.onnx", "int8.onnx", Samples(), form, **kinds, extra_options=extra)
    right, _ = computed("float.onnx")
    found, over = computed("int8.onnx")
    return float(np.abs(found - right).max() / np.abs(right).max()), bool(np.isfinite(over).all())


wrong = []
for low, high in ((0.5, 2.0), (-3.0, -1.0)):
    for form, bits in ((QuantFormat.QDQ, 8), (QuantFormat.QDQ, 16), (QuantFormat.QOperator, 8)):
        wrong.append(off(low, high, form, bits))
        print(f"onnxruntime 1.32.0, Clip to [{low}, {high}], {form.name}, {bits} bits: off by {wrong[-1][0]:.2f} of the largest, 1 / x finite: {wrong[-1][1]}")
right = [
    off(0.5, 2.0, QuantFormat.QDQ, QDQKeepRemovableActivations=True),
    off(-3.0, -1.0, QuantFormat.QDQ, QDQKeepRemovableActivations=True),
    off(0.5, 2.0, QuantFormat.QOperator, exclude=["clip"]),
    off(0.0, 2.0, QuantFormat.QDQ),
    off(-1.0, 2.0, QuantFormat.QOperator),
]
print("onnxruntime 1.32.0, kept, or bounds that hold zero: off by", ", ".join(f"{far:.3f}" for far, _ in right))
assert all(far > 0.2 for far, _ in wrong) and not any(finite for _, finite in wrong)
assert all(far < 0.03 for far, _ in right) and all(finite for _, finite in right[:3])
PY
