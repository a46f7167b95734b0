#!/usr/bin/env bash
# onnxruntime 1.31.1 does not load a branch that dequantizes an int8 constant of the graph around it in front of a MatMul: it makes
# MatMulNBits of the two and looks for the constant in the branch alone ("Missing required weight"). The same constant inside of each
# branch loads (the way out). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/run.py" <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def loads(outside):
    """Whether a branch loads whose int8 weight lies in the graph around it, or in itself."""
    held = {"q": np.ones((64, 64), np.int8), "s": np.full(64, 0.02, np.float32), "z": np.full(64, 3, np.int8)}
    tensors = {name: numpy_helper.from_array(value, name) for name, value in held.items()}
    inner = [tensors[name] for name in ("s", "z")] + ([] if outside else [tensors["q"]])
    bodies = []
    for name in ("t", "e"):
        nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1), helper.make_node("MatMul", ["x", "w"], [name])]
        bodies.append(helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], inner))
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1])
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    graph = helper.make_graph([chosen], "g", ends, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [tensors["q"]] if outside else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        print(str(error)[:200])
        return False
    return True


assert loads(outside=False) and not loads(outside=True)
PY
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" "$folder/run.py"
