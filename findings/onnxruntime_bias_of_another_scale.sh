#!/usr/bin/env bash
# onnxruntime 1.31.1 and 1.32.0 (x86) make one QGemm of DequantizeLinear, a Gemm (or a MatMul and the Add behind it) and QuantizeLinear,
# and take a bias of int32 for steps of input scale times weight scale, whatever scale the DequantizeLinear in front of it has. With twice
# that scale half of the bias is missing, from extended optimization on (the default) and without an error; with none and with the basic
# one the result is that of the operators, as numpy has it. Conv is right at any level, and so are a bias in the steps of its product and
# one of floats (the way out). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/run.py" <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

draw = np.random.default_rng(0)
IN, WEIGHT, OUT = np.float32(0.02), np.float32(0.01), np.float32(0.05)
W, B = draw.integers(-127, 128, (8, 4)).astype(np.int8), draw.integers(-3000, 3000, 4).astype(np.int32)
X = draw.standard_normal((3, 8)).astype(np.float32)


def rounded(x, scale):
    return (np.clip(np.rint(x / scale) + 128, 0, 255) - 128).astype(np.float32) * scale


def differences(kind, step, floats):
    """Of each level of optimization from numpy, in the largest entry; all in steps of the output."""
    x, w = (X[:, :, None, None], W.T[:, :, None, None].copy()) if kind == "Conv" else (X, W)
    stored = {"w": w, "xs": IN, "ws": WEIGHT, "ys": OUT, "z": np.uint8(128), "wz": np.int8(0)}
    stored |= {"b": (B * step).astype(np.float32)} if floats else {"b": B, "bs": step, "bz": np.int32(0)}
    nodes = [("QuantizeLinear", "x xs z", "xq"), ("DequantizeLinear", "xq xs z", "xd"), ("DequantizeLinear", "w ws wz", "wd")]
    nodes += [] if floats else [("DequantizeLinear", "b bs bz", "bd")]
    read = "b" if floats else "bd"
    nodes += [("MatMul", "xd wd", "m"), ("Add", f"m {read}", "g")] if kind == "MatMul" else [(kind, f"xd wd {read}", "g")]
    nodes += [("QuantizeLinear", "g ys z", "gq"), ("DequantizeLinear", "gq ys z", "y")]
    wanted = rounded(rounded(X, IN) @ (W.astype(np.float32) * WEIGHT) + B.astype(np.float32) * step, OUT)
    wanted = wanted[:, :, None, None] if kind == "Conv" else wanted
    ends = [helper.make_tensor_value_info(*each) for each in (("x", TensorProto.FLOAT, x.shape), ("y", TensorProto.FLOAT, wanted.shape))]
    graph = helper.make_graph([helper.make_node(op, a.split(), [b]) for op, a, b in nodes], "g", ends[:1], ends[1:],
                              [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    found = {}
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found[level] = round(float(np.abs(session.run(None, {"x": x})[0] - wanted).max() / OUT), 2)
    return found


for kind in ("Conv", "Gemm", "MatMul"):
    for factor, floats in ((1, False), (2, False), (2, True)):
        found = differences(kind, IN * WEIGHT * np.float32(factor), floats)
        print("onnxruntime", onnxruntime.__version__, kind, "bias in", "floats" if floats else f"steps {factor} times as large", "is off by steps of the output:", found)
        assert found["DISABLE_ALL"] <= 1.01 and found["ENABLE_BASIC"] <= 1.01
        assert (found["ENABLE_EXTENDED"] > 5) == (found["ENABLE_ALL"] > 5) == (factor == 2 and not floats and kind != "Conv")
PY
for version in 1.31.1 1.32.0; do
  "$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==$version numpy==2.4.6
  "$folder/venv/bin/python" "$folder/run.py"
done
