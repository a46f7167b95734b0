#!/usr/bin/env bash
# onnxruntime 1.32.0 and 1.31.1, x86: session.x64quantprecision=1, the option that makes integer kernels exact on CPUs without VNNI, keeps valid files from being
# opened: where the int8 weights of two layers share one initializer as their zero point, as writers that store equal constants once do, the session
# ends in "Attempt to replace the existing tensor". The rewriting of int8 weights as uint8 that the option turns on adds the zero point of 128 under a name
# made of the old one's, once for each layer that reads it. The same file opens and is right without the option and with graph optimizations off; with
# a zero point of its own for each weight, or with none (which means 0), it opens with the option too, which is the way out. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
for version in 1.32.0 1.31.1; do
python3 -m venv --clear "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==$version numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
SCALES = {"s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.01)}


def outcome(kind, zeros, exact, optimized=True):
    """How many steps of the last scale two layers between integers are off without optimizations, or what onnxruntime says."""
    shape, ends = ((8, 8), [2, 8]) if kind == "MatMul" else ((8, 8, 1, 1), [2, 8, 3, 3])
    values = SCALES | {f"w{i}": random.integers(-127, 128, shape).astype(np.int8) for i in range(2)} | {name: np.int8(0) for name in zeros if name}
    node, nodes, last = helper.make_node, [], "x"
    for i, zero in enumerate(zeros):
        nodes += [node("QuantizeLinear", [last, "s", "z"], [f"q{i}"]), node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
                  node("DequantizeLinear", [f"w{i}", "ws", zero][: 3 if zero else 2], [f"v{i}"]), node(kind, [f"d{i}", f"v{i}"], [f"m{i}"])]
        last = f"m{i}"
    nodes += [node("QuantizeLinear", [last, "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ends)] for name in "xy")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    x, found = random.standard_normal(ends).astype(np.float32), []
    for level in ("ORT_ENABLE_ALL" if optimized else "ORT_DISABLE_ALL", "ORT_DISABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.graph_optimization_level = 4, getattr(onnxruntime.GraphOptimizationLevel, level)
        if exact and len(found) == 0:
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            found.append(onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, {"x": x})[0])
        except Exception as error:
            return "Attempt to replace the existing tensor" if "Attempt to replace the existing tensor" in str(error) else str(error)
    return round(float(np.abs(found[0] - found[1]).max() / SCALES["s"]))


for kind in ("MatMul", "Conv"):
    for zeros in (("zero", "zero"), ("zero", "other"), ("", "")):
        for exact, optimized in ((True, True), (True, False), (False, True)):
            found = outcome(kind, zeros, exact, optimized)
            print("onnxruntime", onnxruntime.__version__, kind, "zero points", zeros, "exact" if exact else "as it is",
                  "optimized" if optimized else "not optimized", found, flush=True)
            if zeros == ("zero", "zero") and exact and optimized:
                assert found == "Attempt to replace the existing tensor"
            else:
                assert isinstance(found, int) and (found <= 1 or not exact)
PY
done
