#!/usr/bin/env bash
# OpenVINO 2026.4.1 reads Softmax of ONNX opset 11 and 12 as that of opset 13: one axis at a time, where the standard before
# 13 takes all axes from `axis` on together (axis=1 is the default there). On (2, 2, 2) the shares of four entries become
# those of two; shapes with ones behind the axis hide it. Opset 9 and LogSoftmax of opset 11 are right. No warning.
# Many published files are of opset 11. Way out: onnx.version_converter to 13, which spells it out.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, version_converter

x = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 4


def model(operator, opset):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], axis=1)], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    return made


def both(made):
    data, core = made.SerializeToString(), openvino.Core()
    wanted = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    compiled = core.compile_model(core.read_model(data, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return wanted, compiled({"x": x})[0]


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__)
cases = {f"{operator} {opset}": model(operator, opset) for operator in ("Softmax", "LogSoftmax") for opset in (9, 11, 12, 13)}
cases["Softmax 11 → 13"] = version_converter.convert_version(model("Softmax", 11), 13)
wrong = []
for name, made in cases.items():
    wanted, found = both(made)
    flat = np.exp(x.reshape(2, 4)) / np.exp(x.reshape(2, 4)).sum(1, keepdims=True)
    if name == "Softmax 11":
        assert np.allclose(wanted.reshape(2, 4), flat)  # what the standard says of opset 11
    if not np.allclose(found, wanted, atol=1e-4):
        wrong.append(name)
        print(f"{name}: onnxruntime {wanted.ravel()[:4].round(3)}, OpenVINO {found.ravel()[:4].round(3)}")
print("wrong:", wrong)
raise SystemExit(wrong != ["Softmax 11", "Softmax 12"])
PY
