#!/usr/bin/env bash
# OpenVINO 2026.4.1 on the CPU computes BitShift of a uint8 row (n,) by a column of shifts (8, 1) wrongly when a MatMul
# consumes what is computed from it; with a Conv as the consumer the same unpacking is right. Here the bits choose
# weights through CumSum and GatherElements, so the wrong bits show as an index out of range, which compile_model
# refuses; onnxruntime 1.31.1 runs the file, and onnx's full check accepts it. BitwiseAnd with 1, 2, 4 … 128 and a Cast
# to bool, which says the same, gives the right output in the same graph. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.31.1 numpy
"$folder/venv/bin/python" - <<'PY'
import sys
import numpy as np, onnx, onnxruntime, openvino
from onnx import TensorProto as T, helper as h, numpy_helper as nh

rng = np.random.default_rng(0)
keep = rng.random(96 * 48) < 0.15
values = rng.standard_normal(int(keep.sum()) + 1).astype(np.float32)
bits = np.packbits(keep.reshape(8, -1), axis=0, bitorder="little")[0]  # bit p of byte i is entry p · n/8 + i


def model(shifted):
    c = {"bits": bits, "v": values, "zero": np.int32(0), "flat": np.array([-1]), "shape": np.array([96, 48]),
         "shifts": np.arange(8, dtype=np.uint8)[:, None], "one": np.uint8(1),
         "powers": (1 << np.arange(8)).astype(np.uint8)[:, None]}
    n = h.make_node
    first = ([n("BitShift", ["bits", "shifts"], ["s"], direction="RIGHT"), n("BitwiseAnd", ["s", "one"], ["b"])]
             if shifted else [n("BitwiseAnd", ["bits", "powers"], ["a"]), n("Cast", ["a"], ["b"], to=T.BOOL)])
    nodes = first + [n("Reshape", ["b", "flat"], ["r"]), n("Cast", ["r"], ["k"], to=T.INT32),
                     n("CumSum", ["k", "zero"], ["sum"]), n("Mul", ["sum", "k"], ["i"]),
                     n("GatherElements", ["v", "i"], ["g"]), n("Reshape", ["g", "shape"], ["w"]),
                     n("MatMul", ["x", "w"], ["y"])]
    used = {name for node in nodes for name in node.input}
    g = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, [1, 96])],
                     [h.make_tensor_value_info("y", T.FLOAT, [1, 48])],
                     [nh.from_array(np.asarray(a), k) for k, a in c.items() if k in used])
    m = h.make_model(g, opset_imports=[h.make_opsetid("", 18)])
    m.ir_version = 8
    onnx.checker.check_model(m, full_check=True)
    return m.SerializeToString()


x = rng.standard_normal((1, 96)).astype(np.float32)
print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__)
wrong = {}
for shifted in (True, False):
    data = model(shifted)
    want = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    try:
        core = openvino.Core()
        got = core.compile_model(core.read_model(data, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0]
        error = float(np.abs(got - want).max() / np.abs(want).max())
        wrong[shifted], text = error > 1e-3, f"relative error {error:.2g}"
    except Exception as problem:
        line = [t for t in str(problem).splitlines() if t.strip()][-1]
        wrong[shifted], text = True, f"refused: {line[:160]}"
    print("BitShift + BitwiseAnd" if shifted else "BitwiseAnd + Cast    ", text)
sys.exit(0 if wrong == {True: True, False: False} else 1)
PY
