#!/usr/bin/env bash
# onnxruntime 1.32.0 and 1.31.1 divide integers by another number than floats where an average pool rounds its size up. With
# ceil_mode=1 and count_include_pad=1 a last window that reaches beyond the image and its border counts, by ONNX and torch, only
# what is there; AveragePool of floats does that, opset 18 and 19. The kernel that
# onnxruntime puts in place of DequantizeLinear, AveragePool, QuantizeLinear, and quantize_static in the format QOperator, divides by
# the whole window: nn.AvgPool2d(2, ceil_mode=True), torch's defaults beside, is off by half of a mean in the last row and column of
# 7x7. No error. Right without optimization, and with count_include_pad=0, which means the same where there is no border (the way
# out; with one, write it as a Pad of -0.0 in front, since a Pad of 0.0 is taken back into the pool). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/answers.py" <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

STEP = np.float32(0.02)
X = STEP * np.random.default_rng(0).integers(40, 120, (1, 2, 7, 7)).astype(np.float32)  # no entry is rounded


def means(window, step, border):
    """What the standard says, in numpy: windows that start in the image or the border in front of it."""
    wide = np.pad(X, ((0, 0), (0, 0), (border, border), (border, border)))
    starts = [i for i in range(0, 7 + border, step) if i < step * -(-(7 + 2 * border - window) // step) + step]
    rows = [[wide[..., i:i + window, j:j + window].mean((2, 3)) for j in starts] for i in starts]
    return np.moveaxis(np.array(rows), (0, 1), (2, 3))


def answers(window, step, border, included, opset=18):
    """By onnxruntime: floats, integers without optimization, integers with it."""
    pool = {"kernel_shape": [window] * 2, "strides": [step] * 2, "pads": [border] * 4, "ceil_mode": 1}
    pool["count_include_pad"] = included
    right = means(window, step, border)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", X.shape), ("y", right.shape))]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]), helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
             helper.make_node("AveragePool", ["b"], ["c"], **pool), helper.make_node("QuantizeLinear", ["c", "s", "z"], ["d"]),
             helper.make_node("DequantizeLinear", ["d", "s", "z"], ["y"])]
    stored = [numpy_helper.from_array(STEP, "s"), numpy_helper.from_array(np.array(0, np.uint8), "z")]
    plain = helper.make_graph([helper.make_node("AveragePool", ["x"], ["y"], **pool)], "g", ends[:1], ends[1:])
    found = []
    for graph, level in ((plain, "ENABLE"), (helper.make_graph(nodes, "g", ends[:1], ends[1:], stored), "DISABLE"),
                         (helper.make_graph(nodes, "g", ends[:1], ends[1:], stored), "ENABLE")):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}_ALL")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": X})[0])
    return [float(np.abs(one - right).max() / right.max()) for one in found]


names = ("floats", "integers as they are", "integers optimized")
for case, is_wrong in (((2, 2, 0, 1), True), ((3, 3, 0, 1), True), ((3, 3, 1, 1), False), ((2, 2, 0, 0), False)):
    for opset in (18, 19):
        off = dict(zip(names, answers(*case, opset)))
        print("onnxruntime", onnxruntime.__version__, "window, step, border, count_include_pad", case, "opset", opset,
              {name: round(one, 4) for name, one in off.items()})
        assert off["floats"] < 1e-5 and off["integers as they are"] < 0.01
        assert (off["integers optimized"] > 0.2) == is_wrong
PY
"$folder/venv/bin/python" "$folder/answers.py"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.31.1
"$folder/venv/bin/python" "$folder/answers.py"
