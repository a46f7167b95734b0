#!/usr/bin/env bash
# onnxruntime 1.32.0 leaves an image as it is where a Resize keeps the aspect ratio (keep_aspect_ratio_policy not_larger or not_smaller)
# and its axes are counted from the end: axes [-2, -1] and sizes 6 by 12 make 4x6 of 4x6, where axes [2, 3] make 6x9 (not_larger) and
# 8x12 (not_smaller), which is what onnx's shape inference says of both. No error. With the policy stretch, negative axes are right.
# The standard allows them: "Accepted range is [-r, r-1]". Way out: count axes from the front. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(4)  # it warns that its own result has another shape than what inference declared
x = np.random.default_rng(0).standard_normal((1, 3, 4, 6)).astype(np.float32)


def sizes(axes, policy):
    """The last two extents by onnxruntime and by onnx's inference."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], axes=axes, keep_aspect_ratio_policy=policy)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(np.int64([6, 12]), "sizes")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    declared = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0].shape[2:], tuple(extent.dim_value for extent in declared)[2:]


for policy, right in (("stretch", (6, 12)), ("not_larger", (6, 9)), ("not_smaller", (8, 12))):
    for axes in ([2, 3], [-2, -1]):
        found, declared = sizes(axes, policy)
        print("onnxruntime 1.32.0:", policy, "axes", axes, "makes", found, "inference says", declared)
        assert declared == right and found == ((4, 6) if axes[0] < 0 and policy != "stretch" else right)
PY
