#!/usr/bin/env bash
# onnxruntime 1.32.0 leaves the dilations out where it works out the border of a pool with auto_pad SAME_UPPER or SAME_LOWER: a MaxPool,
# AveragePool or LpPool of 3 with dilations of 2 makes 7x7 of 9x9, where the standard gives ceil(9 / stride) places and onnx's shape
# inference declares 9x9, without an error. Optimized or not; without dilations, or with the same border written as pads, it is right.
# (A Conv of this kind it refuses by name: microsoft/onnxruntime#20582.) Way out: write pads. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import math

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)  # it warns that its own result has another shape than what inference declared
SIZE, KERNEL = 9, 3
x = np.random.default_rng(0).standard_normal((1, 1, SIZE, SIZE)).astype(np.float32)


def pooled(kind, optimized, **words):
    """What onnxruntime computes, and the shape that onnx infers."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], kernel_shape=[KERNEL] * 2, **words)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    declared = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], [extent.dim_value for extent in declared][2]


for kind in ("MaxPool", "AveragePool", "LpPool"):
    for way in ("SAME_UPPER", "SAME_LOWER"):
        for stride, dilation in ((1, 1), (1, 2), (2, 2)):
            places = math.ceil(SIZE / stride)
            border = (places - 1) * stride + (KERNEL - 1) * dilation + 1 - SIZE
            assert border % 2 == 0
            words = {"strides": [stride] * 2, "dilations": [dilation] * 2}
            right, _ = pooled(kind, True, pads=[border // 2] * 4, **words)
            for optimized in (True, False):
                found, declared = pooled(kind, optimized, auto_pad=way, **words)
                assert declared == places and right.shape[2] == places
                if dilation == 1:
                    assert np.allclose(found, right, atol=1e-5)
                else:
                    assert found.shape[2] == {1: 7, 2: 4}[stride], found.shape
            print("onnxruntime 1.32.0:", kind, way, "stride", stride, "dilation", dilation, "makes", found.shape[2:], "declared", declared)
PY
