#!/usr/bin/env bash
# onnxscript 0.7.2's optimizer, which torch.onnx.export runs by itself, makes one Clip of two and forgets their order. It takes the larger
# of the lower bounds and the smaller of the upper ones; where the second range lies above the first, the lower is then above the upper
# and ONNX answers with the upper: Clip to [-1, 2] and then to [2.5, 3] is 2.5 everywhere, and 2 after the optimizer. A Relu behind a
# Clip to [-3, -2] is 0, and -2 afterwards. No error. Ranges that meet, and a second one below the first, are right. numpy and
# onnxruntime agree, with its own optimizer and without. Where one tensor is kept within two such pairs, the bounds of both get the same
# names, and the file does not load: of those of the second pair nothing is stored. Way out: one clamp with both bounds. Exit 0 while this
# holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
from onnx import TensorProto, helper, numpy_helper

X = np.linspace(-4, 4, 9, dtype=np.float32)


def answer(model, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}_ALL")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def answers(first, second):
    """numpy's and that of the optimized file; without a second range there is a Relu."""
    stored = {"a": first[0], "b": first[1]} | ({"c": second[0], "d": second[1]} if second else {})
    nodes = [helper.make_node("Clip", ["x", "a", "b"], ["m"]),
             helper.make_node("Clip", ["m", "c", "d"], ["y"]) if second else helper.make_node("Relu", ["m"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in stored.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], constants),
                              opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    wanted = np.minimum(np.maximum(np.minimum(np.maximum(X, first[0]), first[1]), (second or (0, 9))[0]), (second or (0, 9))[1])
    assert np.array_equal(answer(model, "DISABLE"), wanted) and np.array_equal(answer(model, "ENABLE"), wanted)
    return wanted, answer(onnxscript.optimizer.optimize(model), "DISABLE")


for first, second, is_right in (((-1, 2), (2.5, 3), False), ((-3, -2), None, False), ((-1, 2), (-2, -1.5), True),
                                ((-1, 2), (1.5, 3), True), ((-3, 2), None, True)):
    wanted, found = answers(first, second)
    print("onnxscript 0.7.2: Clip to", first, "then", f"Clip to {second}" if second else "Relu", "gives",
          sorted({float(each) for each in found}), "for", sorted({float(each) for each in wanted}))
    assert np.array_equal(wanted, found) == is_right

nodes = [helper.make_node("Neg", ["x"], ["n"])]
for first, second in (("m", "y"), ("k", "z")):
    nodes += [helper.make_node("Clip", ["n", "a", "b"], [first]), helper.make_node("Clip", [first, "c", "d"], [second])]
ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xyz"}
constants = [numpy_helper.from_array(np.float32(value), name) for name, value in zip("abcd", (-3, 2, -1, 3))]
graph = helper.make_graph(nodes, "g", [ends["x"]], [ends["y"], ends["z"]], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
answer(model, "ENABLE")
optimized = onnxscript.optimizer.optimize(model)
made = {name for node in optimized.graph.node for name in node.output} | {each.name for each in optimized.graph.initializer}
read = {name for node in optimized.graph.node for name in node.input}
print("onnxscript 0.7.2: read and stored nowhere", sorted(read - made - {"x"}))
assert read - made - {"x"}
PY
