#!/usr/bin/env bash
# onnx 1.23.2's reference evaluator loses a row of a MaxPool with auto_pad = SAME_LOWER and a stride: 5 rows by strides of 2 are 3, as
# the standard, onnx's own shape inference and onnxruntime 1.31.1 say, and it answers 2. SAME_UPPER, a stride of 1 and
# AveragePool with the same attributes are right. Nothing warns, although the file declares the shape.
# Way out: write the borders as `pads`. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^onnx\|^[A-Za-z]*, SAME\|^holds\|^changed"
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

KERNEL = 2


def pooled(x, operator, where, stride):
    """What the standard spells: ceil(extent / stride) windows, the odd border entry at the end (upper) or the start (lower)."""
    borders = []
    for extent in x.shape:
        needed = max(0, (-(-extent // stride) - 1) * stride + KERNEL - extent)
        borders.append((needed // 2, needed - needed // 2) if where == "SAME_UPPER" else (needed - needed // 2, needed // 2))
    wide = np.pad(x, borders, constant_values=np.nan)
    rows, columns = (-(-extent // stride) for extent in x.shape)
    window = np.nanmax if operator == "MaxPool" else np.nanmean
    at = [[wide[i * stride : i * stride + KERNEL, j * stride : j * stride + KERNEL] for j in range(columns)] for i in range(rows)]
    return np.array([[window(part) for part in row] for row in at])


x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
wrong, holds = [], True
for operator, where, stride in (
    (operator, where, stride) for operator in ("MaxPool", "AveragePool") for where in ("SAME_UPPER", "SAME_LOWER") for stride in (1, 2)
):
    wanted = pooled(x, operator, where, stride)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, *shape)) for name, shape in (("x", x.shape), ("y", wanted.shape))]
    node = helper.make_node(operator, ["x"], ["y"], kernel_shape=[KERNEL] * 2, strides=[stride] * 2, auto_pad=where)
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)  # infers shapes and holds them against what is declared
    feeds = {"x": x[None, None]}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runtime, reference = session.run(None, feeds)[0][0, 0], ReferenceEvaluator(model).run(None, feeds)[0][0, 0]
    holds &= np.allclose(runtime, wanted, atol=1e-5)
    if reference.shape != wanted.shape or not np.allclose(reference, wanted, atol=1e-5):
        wrong.append((operator, where, stride, reference.shape))
    print(f"{operator}, {where}, stride {stride}: numpy and onnxruntime {wanted.shape}, the reference {reference.shape}", flush=True)
holds &= wrong == [("MaxPool", "SAME_LOWER", 2, (2, 3))]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
