#!/usr/bin/env bash
# onnx 1.23.2's reference evaluator computes Softmax and LogSoftmax of opset 11 as those of opset 13: one axis, where
# the standard before 13 takes all axes from `axis` on together. It picks implementations by opset elsewhere, so nothing
# tells; onnxruntime follows the standard, and so does onnx's own version_converter, whose result the reference then gets
# right: the same model gives two answers before and after it. Way out: convert to 13 before evaluating. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, version_converter
from onnx.reference import ReferenceEvaluator

x = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 4


def model(operator, opset):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], axis=1)], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    return made


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
holds = True
for operator in ("Softmax", "LogSoftmax"):
    old = model(operator, 11)
    new = version_converter.convert_version(old, 13)
    session = onnxruntime.InferenceSession(old.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})[0]
    before, after = (ReferenceEvaluator(one).run(None, {"x": x})[0] for one in (old, new))
    for name, found in (("onnxruntime", wanted), ("reference, 11", before), ("reference, 13", after)):
        print(f"{operator:10} {name:13} {found.ravel()[:4].round(3)}")
    holds &= np.allclose(after, wanted, atol=1e-6) and not np.allclose(before, wanted, atol=0.1)
raise SystemExit(not holds)
PY
