#!/usr/bin/env bash
# onnxruntime 1.31.1 takes the scales of a weight's rows for those of its columns: DequantizeLinear with axis=0 in front of
# a MatMul, which the standard allows (one scale for each input channel), becomes QLinearMatMul, which only knows one for
# each output channel. A square weight is then computed with the wrong scales without an error, here off by half of the
# largest value; any other shape loads and is refused when it runs, naming an operator that is not in the file. Without
# optimizations both are right, and axis=1 always is. 1.32.0 has mended it. Way out below: scales of columns, or
# ORT_ENABLE_BASIC. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)


def off(columns, axis, level):
    """How far the file is from the same file without optimizations, of the largest value."""
    weight = random.integers(-127, 128, (6, columns)).astype(np.int8)
    scales = np.linspace(0.0005, 0.02, weight.shape[axis]).astype(np.float32)
    values = {"w": weight, "ws": scales, "wz": np.zeros(len(scales), np.int8),
              "xs": np.float32(0.03), "ys": np.float32(0.1), "z": np.int8(0)}
    node = helper.make_node
    nodes = [node("QuantizeLinear", ["x", "xs", "z"], ["xq"]), node("DequantizeLinear", ["xq", "xs", "z"], ["xd"]),
             node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis), node("MatMul", ["xd", "wd"], ["m"]),
             node("QuantizeLinear", ["m", "ys", "z"], ["mq"]), node("DequantizeLinear", ["mq", "ys", "z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, n]) for name, n in (("x", 6), ("y", columns))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    x, found = random.standard_normal((4, 6)).astype(np.float32), []
    for one in ("ORT_DISABLE_ALL", level):
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.graph_optimization_level = 4, getattr(onnxruntime.GraphOptimizationLevel, one)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        try:
            found.append(session.run(None, {"x": x})[0])
        except Exception as error:
            return "refused when run" if "QLinearMatMul" in str(error) else str(error)
    return float(np.abs(found[1] - found[0]).max() / np.abs(found[0]).max())


print("onnxruntime", onnxruntime.__version__)
seen = {}
for columns, axis, level in ((6, 0, "ORT_ENABLE_ALL"), (6, 1, "ORT_ENABLE_ALL"), (6, 0, "ORT_ENABLE_BASIC"), (4, 0, "ORT_ENABLE_ALL")):
    seen[columns, axis, level] = answer = off(columns, axis, level)
    print(f"6 × {columns}, axis={axis}, {level}: {answer if isinstance(answer, str) else f'off by {answer:.2g}'}")
square, columns, basic, oblong = seen.values()
raise SystemExit(not (square > 0.3 and columns < 0.05 and basic < 0.05 and oblong == "refused when run"))
PY
