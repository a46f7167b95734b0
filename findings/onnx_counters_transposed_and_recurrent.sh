#!/usr/bin/env bash
# Counters of multiplications in ONNX files, valid files that onnxruntime runs:
# - onnx-tool 1.0.1 counts a ConvTranspose with the channels of its output for those of its input, at the places of its output: 2×2 with a stride
#   of 2 from 8 channels to 16 counts 8 times too often, from 16 to 8 twice,
# - onnx-opcounter 0.0.4 counts an LSTM, a GRU and an RNN as next to nothing (one operation or so for each number of the output), an Einsum likewise (the
#   same product as a MatMul is right), and a ConvTranspose at the places of its output, 4 times too often.
# Convolutions in groups, with strides and dilation, and MatMul by a matrix are right in both; onnx-tool adds the gates to recurrent layers.
# No warning. The right number is each weight times how often it is read, from the definition. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx-tool==1.0.1 onnx-opcounter==0.0.4 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$folder"
cat > count.py <<'PY'
import contextlib
import io

import numpy as np
import onnx
import onnx_tool
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx_opcounter import calculate_macs

some = np.random.default_rng(0).standard_normal
image, steps = (1, 8, 10, 12), (7, 1, 24)
weights = {"conv": (16, 8, 3, 3), "grouped": (16, 2, 3, 3), "up": (8, 16, 2, 2), "up_fewer": (16, 8, 2, 2), "up_grouped": (8, 4, 2, 2), "matrix": (24, 32)}
cases = {  # operator, shape of x, stored shapes, attributes, multiplications
    "Conv": ("Conv", image, [weights["conv"]], {}, 16 * 8 * 9 * 80),
    "Conv of 4 groups": ("Conv", image, [weights["grouped"]], {"group": 4, "strides": [2, 2], "dilations": [2, 2]}, 16 * 2 * 9 * 12),
    "MatMul": ("MatMul", steps, [weights["matrix"]], {}, 7 * 24 * 32),
    "Einsum": ("Einsum", steps, [weights["matrix"]], {"equation": "tbi,io->tbo"}, 7 * 24 * 32),
    "ConvTranspose": ("ConvTranspose", image, [weights["up"]], {"strides": [2, 2]}, 8 * 16 * 4 * 120),
    "ConvTranspose to fewer": ("ConvTranspose", (1, 16, 10, 12), [weights["up_fewer"]], {"strides": [2, 2]}, 16 * 8 * 4 * 120),
    "ConvTranspose of 4 groups": ("ConvTranspose", image, [weights["up_grouped"]], {"strides": [2, 2], "group": 4}, 8 * 4 * 4 * 120),
    "LSTM": ("LSTM", steps, [(1, 64, 24), (1, 64, 16), (1, 128)], {"hidden_size": 16}, 7 * 64 * 40),
    "GRU": ("GRU", steps, [(1, 48, 24), (1, 48, 16), (1, 96)], {"hidden_size": 16}, 7 * 48 * 40),
}
found = {}
for name, (kind, shape, stored, attributes, wanted) in cases.items():
    names = [f"w{place}" for place in range(len(stored))]
    if "Conv" in kind:  # written out, as torch.onnx does
        attributes = {"kernel_shape": stored[0][2:], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1} | attributes
    outputs = {"LSTM": ["y", "h", "c"], "GRU": ["y", "h"]}.get(kind, ["y"])
    node = helper.make_node(kind, ["x", *names], outputs, name="it", **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(some(s).astype(np.float32), n) for n, s in zip(names, stored, strict=True)])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    x = some(shape).astype(np.float32)
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    with contextlib.redirect_stdout(io.StringIO()):
        tool = onnx_tool.Model(model).graph
        tool.shape_infer({"x": x})
        tool.profile()
        counter = float(calculate_macs(model))
    found[name] = float(tool.macs[0] if isinstance(tool.macs, list | tuple) else tool.macs) / wanted, counter / wanted
    print(f"{name}: onnx-tool {found[name][0]:.2f}, onnx-opcounter {found[name][1]:.3f} of {wanted} multiplications")
near = lambda value, right: abs(value / right - 1) < 0.05
assert all(near(one, 1) for name in ("Conv", "Conv of 4 groups", "MatMul") for one in found[name])
assert near(found["ConvTranspose"][0], 8) and near(found["ConvTranspose to fewer"][0], 2) and near(found["ConvTranspose of 4 groups"][0], 8)
assert all(near(found[name][1], 4) for name in found if name.startswith("ConvTranspose"))
assert all(found[name][1] < 0.05 for name in ("LSTM", "GRU", "Einsum"))
PY
venv/bin/python count.py
