#!/usr/bin/env bash
# onnxslim 0.1.98 multiplies a convolution's result by factors along another axis than asked, if there are as many of them as the
# layer has channels. Its fusion of Conv and Mul looks at the number of factors, not at the axis they lie on, and puts them into
# the weights of the channels: 8 channels over images of 8 rows, times a window over the rows (8, 1) or over the columns (8,),
# come out with every channel scaled instead. ConvTranspose does the same. No error; onnxslim's own check (`--model-check`) would
# tell, but is off by default. Other counts, factors of channels, and sums (Add) are right. Way out:
# skip_fusion_patterns=["FusionConvMul", "FusionConvTransposeMul"]. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import logging

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

logging.disable(logging.ERROR)
random = np.random.default_rng(0)
SKIP = ["FusionConvMul", "FusionConvTransposeMul"]


def answer(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def off(layer, extent, kind, shape, **options):
    """How far the slim file is from the model, which two runtimes agree upon."""
    values = {"w": random.standard_normal((8, 8, 1, 1)), "b": random.standard_normal(8), "k": random.standard_normal(shape)}
    nodes = [helper.make_node(layer, ["x", "w", "b"], ["c"]), helper.make_node(kind, ["c", "k"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, *extent]) for name in "xy"]
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    feeds = {"x": random.standard_normal((1, 8, *extent)).astype(np.float32)}
    right = answer(model, feeds)
    assert np.allclose(right, ReferenceEvaluator(model).run(None, feeds)[0], atol=1e-4)
    return round(float(np.abs(answer(onnxslim.slim(model, **options), feeds) - right).max()), 4)


for layer in ("Conv", "ConvTranspose"):
    found = {
        "8 rows": off(layer, (8, 6), "Mul", (8, 1)), "8 columns": off(layer, (6, 8), "Mul", (8,)),
        "8 rows, without the fusion": off(layer, (8, 6), "Mul", (8, 1), skip_fusion_patterns=SKIP),
        "6 rows": off(layer, (6, 8), "Mul", (6, 1)), "channels": off(layer, (8, 8), "Mul", (8, 1, 1)),
        "8 rows added": off(layer, (8, 6), "Add", (8, 1)),
    }
    print("onnxslim 0.1.98,", layer, "of 8 channels times a factor for each of", found)
    assert all((one > 1) == (name in ("8 rows", "8 columns")) for name, one in found.items())
PY
