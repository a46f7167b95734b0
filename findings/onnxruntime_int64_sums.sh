#!/usr/bin/env bash
# onnxruntime 1.31.1 on the CPU adds and multiplies int64 in ReduceSum and ReduceProd by way of floats: results above
# 2^53 are rounded, while Add, Mul and CumSum of the same numbers are exact. Sums of nanoseconds, hashes or ids in a model
# come out next to the right integer, without an error. Seen: ReduceSum([2^61 + 1, 1]) = 2^61. Way out: CumSum and the last
# entry, or keep the numbers below 2^53. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def run(kind, *numbers):
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.INT64, n.shape) for i, n in enumerate(numbers)]
    constants = [numpy_helper.from_array(np.int64(0), "axis")] if kind == "CumSum" else []
    node = helper.make_node(kind, [end.name for end in ends] + [c.name for c in constants], ["y"])
    shape = numbers[0].shape if kind == "CumSum" else [1]
    result = helper.make_tensor_value_info("y", TensorProto.INT64, shape)
    model = helper.make_model(helper.make_graph([node], "g", ends, [result], constants),
                              opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int(session.run(None, {f"x{i}": n for i, n in enumerate(numbers)})[0][-1])


a, b = 2**61 + 1, 1
both = np.array([a, b], np.int64)
apart = [np.array([a], np.int64), np.array([b], np.int64)]
seen = {"ReduceSum": run("ReduceSum", both), "ReduceProd": run("ReduceProd", both), "CumSum": run("CumSum", both),
        "Add": run("Add", *apart), "Mul": run("Mul", *apart)}
right = {"ReduceSum": a + b, "ReduceProd": a * b, "Add": a + b, "Mul": a * b, "CumSum": a + b}
print("onnxruntime", onnxruntime.__version__)
for name, value in seen.items():
    print(f"{name:10} {value}, exactly {right[name]}")
wrong = {name for name in seen if seen[name] != right[name]}
raise SystemExit(wrong != {"ReduceSum", "ReduceProd"})
PY
