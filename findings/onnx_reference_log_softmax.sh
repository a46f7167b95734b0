#!/usr/bin/env bash
# onnx 1.23.2's reference evaluator answers -inf where the standard's own definition of LogSoftmax is finite: it takes the logarithm of
# a softmax, which is 0 for what lies more than 104 below the largest. The function body that onnx.defs gives for LogSoftmax
# subtracts instead, and evaluated by the same evaluator it is right, as onnxruntime 1.31.1 and numpy are.
# SoftmaxCrossEntropyLoss is infinite in the same way. Logits of -1000 for what may not be chosen are common; a test that takes
# the reference for the truth then finds a right file wrong. No warning. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^onnx\|^[A-Za-z]*: numpy\|^holds\|^changed"
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, defs, helper
from onnx.reference import ReferenceEvaluator

x = np.float32([[0, 1, -1000, -300]])
target = np.array([2])
exactly = x - x.max() - np.log(np.exp(x - x.max()).sum())
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
found = {}
for operator, feeds, wanted in (
    ("LogSoftmax", {"x": x}, exactly),
    ("SoftmaxCrossEntropyLoss", {"x": x, "t": target}, -exactly[0, 2]),
):
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("t", TensorProto.INT64, [1])]
    ends = ends[: len(feeds)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, np.shape(wanted))
    node = helper.make_node(operator, list(feeds), ["y"])
    model = helper.make_model(helper.make_graph([node], "g", ends, [result]), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = {
        "onnxruntime": session.run(None, feeds)[0],
        "reference": ReferenceEvaluator(model).run(None, feeds)[0],
    }
    if operator == "LogSoftmax":  # which the standard defines by other operators as well
        schema, given = defs.get_schema(operator, 18), (node.SerializeToString(), [ends[0].type.SerializeToString()])
        body = onnx.FunctionProto.FromString(schema.get_context_dependent_function_with_opset_version(18, *given))
        answers["the standard's function"] = ReferenceEvaluator(body).run(None, {body.input[0]: x}, attributes={})[0]
    said = ", ".join(f"{who} {np.round(answer, 2).tolist()}" for who, answer in answers.items())
    print(f"{operator}: numpy {np.round(wanted, 2).tolist()}, {said}", flush=True)
    found[operator] = [bool(np.allclose(answer, wanted, rtol=1e-5)) for answer in answers.values()]
holds = list(found.values()) == [[True, False, True], [True, False]]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
