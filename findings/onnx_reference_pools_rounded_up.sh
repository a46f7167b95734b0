#!/usr/bin/env bash
# onnx 1.23.2's reference evaluator puts half of what a pool lacks in front of the image. Where an AveragePool with ceil_mode=1 ends two
# or more places beyond it, every window begins earlier than the standard says: means of three over 1 … 7 are 1.5, 4 and 6 in place
# of 2, 5 and 7. No error. One place beyond is right, which hides it for windows and steps of two; MaxPool is right anywhere.
# onnxruntime and the definition agree. Way out: pads that make the last window whole, with
# count_include_pad=0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

X = np.arange(1, 8, dtype=np.float32)[None, None]
KINDS = {"AveragePool": np.mean, "MaxPool": np.max}


def answers(kind, window, step, opset, pads=(0, 0)):
    """By the definition (windows that start in the image, over what is there), onnxruntime and the reference evaluator."""
    count = -(-(7 - window) // step) + 1
    starts = [i * step for i in range(count) if i * step < 7]
    right = np.array([KINDS[kind](X[0, 0, i:i + window]) for i in starts])
    words = {"kernel_shape": [window], "strides": [step], "ceil_mode": 1} | ({"pads": pads} if any(pads) else {})
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, len(right)])]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], **words)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"x": X})[0].ravel(), right, atol=1e-5), (kind, window, step)
    return right, ReferenceEvaluator(model).run(None, {"x": X})[0].ravel()


for kind in KINDS:
    for opset in (18, 22):
        for window, step in ((3, 3), (4, 4), (2, 2)):
            right, found = answers(kind, window, step, opset)
            beyond = (len(right) - 1) * step + window - 7
            print("onnx 1.23.2", kind, "opset", opset, "window", window, "step", step, "ends", beyond, "beyond: the reference gives",
                  found.round(3).tolist(), "for", right.round(3).tolist())
            assert np.allclose(found, right, atol=1e-5) == (kind == "MaxPool" or beyond < 2)
right, found = answers("AveragePool", 3, 3, 18, pads=(0, 2))
assert np.allclose(found, right, atol=1e-5), "the way out"
PY
