#!/usr/bin/env bash
# onnxruntime 1.32.0's quantize_static in the format QOperator rounds a bias once however many layers read it. An int32 bias
# counts steps of input scale times weight scale, so two convolutions that share one bias and see inputs of other sizes need
# two: the second reads the numbers of the first by its own scale, here off by 0.59 of the largest output, without an error
# or a warning. As QDQ the same model is within 0.01, and so is QOperator with a copy of the bias under another name (the way
# out). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

logging.disable(logging.WARNING)
random = np.random.default_rng(0)
SAMPLES = [random.standard_normal((1, 4, 10, 10)).astype(np.float32) for _ in range(20)]
WEIGHT, BIAS = random.standard_normal((4, 4, 3, 3)), 5 * random.standard_normal(4)


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = iter(SAMPLES)

    def get_next(self):
        sample = next(self.left, None)
        return None if sample is None else {"x": sample}


def answers(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"x": sample})[0] for sample in SAMPLES])


def off(second, form):
    """How far int8 is from floats, of the largest output, where the second layer reads the bias of that name."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["one"]), helper.make_node("Mul", ["one", "fiftieth"], ["less"]),
             helper.make_node("Conv", ["less", "w", second], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [1, 4, 10, 10]), ("y", [1, 4, 6, 6])))
    values = {"w": WEIGHT, "b": BIAS, "fiftieth": 0.02} | ({} if second == "b" else {second: BIAS})
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in values.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    quantize_static("float.onnx", "int8.onnx", Samples(), quant_format=form)
    right = answers("float.onnx")
    return round(float(np.abs(answers("int8.onnx") - right).max() / np.abs(right).max()), 3)


found = {form.name: (off("b", form), off("copy", form)) for form in (QuantFormat.QDQ, QuantFormat.QOperator)}
print("(shared, apart):", found)
assert found["QOperator"][0] > 0.2, "a shared bias is rounded for each of its layers now"
assert max(found["QOperator"][1], *found["QDQ"]) < 0.03, "int8 itself is no longer that near"
PY
