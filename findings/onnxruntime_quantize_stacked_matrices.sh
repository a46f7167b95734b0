#!/usr/bin/env bash
# onnxruntime 1.32.0's quantize_static in the format QOperator, and quantize_dynamic, write with per_channel=True a file that ends at its first call where a
# MatMul reads a stack of matrices, (2, 16, 24), one for each head or expert. They give it 24 scales and zero points, the last axis's; the checker takes the
# file and the session opens, but QLinearMatMul and DynamicQuantizeMatMul refuse these for a stack at the call ("weight zero point must be a
# scalar, ..."). The quantizer says nothing. QDQ is right, and so are per_channel=False and a single matrix in every form. Way out: QDQ, one scale for
# the stack, or nodes_to_exclude. Weights are reduced to 7 bits here, so that CPUs without VNNI give the same. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

logging.disable(logging.WARNING)
random = np.random.default_rng(0)
samples = [random.standard_normal((2, 5, 16)).astype(np.float32) for _ in range(8)]


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = iter(samples)

    def get_next(self):
        return next(({"x": sample} for sample in self.left), None)


def computed(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    try:
        return session.run(None, {"x": samples[0]})[0]
    except Exception as refused:
        return "".join(kind for kind in ("QLinearMatMul", "DynamicQuantizeMatMul") if f"running {kind} " in str(refused))


def answer(form, per_channel, shape=(2, 16, 24)):
    """"right", "other numbers", or the operator at which the first call ends."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5, size]) for name, size in (("x", 16), ("y", 24))]
    weight = numpy_helper.from_array(np.random.default_rng(1).standard_normal(shape).astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "heads")], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    kinds = {"per_channel": per_channel, "weight_type": QuantType.QInt8, "reduce_range": True}
    if form is None:
        quantize_dynamic("float.onnx", "int8.onnx", **kinds)
    else:
        quantize_static("float.onnx", "int8.onnx", Samples(), form, activation_type=QuantType.QUInt8, **kinds)
    onnx.checker.check_model("int8.onnx")
    wanted, found = computed("float.onnx"), computed("int8.onnx")
    if isinstance(found, str):
        return found
    return "right" if np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max() else "other numbers"


found = {}
for name, form in (("QDQ", QuantFormat.QDQ), ("QOperator", QuantFormat.QOperator), ("dynamic", None)):
    found[name] = [answer(form, True), answer(form, False), answer(form, True, (16, 24))]
    print(f"onnxruntime 1.32.0, {name}: a stack per channel: {found[name][0]}; one scale: {found[name][1]}; a single matrix per channel: {found[name][2]}", flush=True)
holds = found["QDQ"] == ["right"] * 3
holds &= found["QOperator"] == ["QLinearMatMul", "right", "right"] and found["dynamic"] == ["DynamicQuantizeMatMul", "right", "right"]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
