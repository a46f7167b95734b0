#!/usr/bin/env bash
# onnx 1.23.2's reference evaluator normalises too little: LRN counts channels by the size of the batch, so that of a batch of one only
# the first channel is divided by its neighbours (onnx/onnx#7805, mended after this release), and LpNormalization with p = 1
# divides by the sum with its signs instead of the sum of sizes (onnx/onnx#8427, mended after it too). Both files pass onnx's full
# check, and onnxruntime 1.31.1 and numpy agree on what the standard says. Networks of the AlexNet and GoogLeNet kind have LRN: the
# reference, which tests take for the truth, is off by as much as the values are. No warning. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^onnx\|^L[A-Za-z]*, \|^holds\|^changed"
import math

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

ALPHA, BETA, BIAS, SIZE = 0.5, 0.75, 2.0, 3


def neighbours(x):
    """LRN as the standard spells it."""
    last, sums = x.shape[1] - 1, np.zeros_like(x)
    for channel in range(x.shape[1]):
        first = max(0, channel - math.floor((SIZE - 1) / 2))
        sums[:, channel] = (x[:, first : min(last, channel + math.ceil((SIZE - 1) / 2)) + 1] ** 2).sum(1)
    return x / (BIAS + ALPHA / SIZE * sums) ** BETA


def by_sizes(x):
    return x / np.abs(x).sum(1, keepdims=True)


random = np.random.default_rng(0)
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
right = {}
for operator, shape, exact, attributes in (
    ("LRN", (1, 4, 2, 2), neighbours, {"alpha": ALPHA, "beta": BETA, "bias": BIAS, "size": SIZE}),
    ("LRN", (4, 4, 2, 2), neighbours, {"alpha": ALPHA, "beta": BETA, "bias": BIAS, "size": SIZE}),
    ("LpNormalization", (2, 4), by_sizes, {"axis": 1, "p": 1}),
):
    x = random.standard_normal(shape).astype(np.float32) * 3
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = session.run(None, {"x": x})[0], ReferenceEvaluator(model).run(None, {"x": x})[0]
    off = [float(np.abs(answer - exact(x)).max()) for answer in answers]
    print(f"{operator}, shape {shape}: onnxruntime off by {off[0]:.1g}, the reference by {off[1]:.2g} of {np.abs(exact(x)).max():.2g}", flush=True)
    right[operator, shape] = [one < 1e-5 for one in off]
holds = list(right.values()) == [[True, False], [True, True], [True, False]]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
