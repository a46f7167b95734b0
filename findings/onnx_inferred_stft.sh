#!/usr/bin/env bash
# onnx 1.23.2's shape inference takes a STFT that does not say `onesided` for one of both sides: of frames of 16 it declares 16
# frequencies, where the standard's default, onesided=1, gives 9, and so do onnxruntime 1.32.0 and onnx's own reference evaluator. Strict mode
# and data propagation change nothing; with onesided=1 or 0 written down it is right. What reads the declared shape (a Reshape by it,
# a memory plan, a check of the model against its results) is wrong without an error. Way out: write onesided. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)  # it warns that its own result has another shape than what inference declared
FRAME = 16
x = np.random.default_rng(0).standard_normal((1, 128, 1)).astype(np.float32)
default = {item.name: item.default_value.i for item in onnx.defs.get_schema("STFT").attributes.values()}["onesided"]
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "default of onesided:", default)
assert default == 1

for words in ({}, {"onesided": 1}, {"onesided": 0}):
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    constants = [numpy_helper.from_array(np.array(8), "step"), numpy_helper.from_array(np.hanning(FRAME).astype(np.float32), "window")]
    graph = helper.make_graph([helper.make_node("STFT", ["x", "step", "window"], ["y"], **words)], "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    declared = [extent.dim_value for extent in inferred.graph.output[0].type.tensor_type.shape.dim]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, other = session.run(None, {"x": x})[0].shape, ReferenceEvaluator(model).run(None, {"x": x})[0].shape
    print("STFT", words, "declared", declared, "onnxruntime", list(found), "the reference", list(other))
    right = 16 if words == {"onesided": 0} else 9
    assert found[2] == other[2] == right and declared[2] == (right if words else FRAME)
PY
