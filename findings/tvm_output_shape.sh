#!/usr/bin/env bash
# TVM 0.27.0.post1's relax front end for ONNX leaves output_shape of a ConvTranspose out: a layer that names its size, as TensorFlow's Conv2DTranspose becomes,
# comes out larger by what should be cut off ((1, 3, 13, 15) in place of (1, 3, 12, 14)), shifted at the front, without an error. So does it detect_negative=0
# and detect_positive=0 of IsInf, which then finds both signs. The same layer with pads written out, and IsInf of both signs, are right (the way out: pads;
# x == inf). onnxruntime follows the standard. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apache-tvm==0.27.0.post1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

print("apache-tvm", version("apache-tvm"), "onnxruntime", onnxruntime.__version__, flush=True)
random = np.random.default_rng(0)
image, kernel = random.normal(size=(1, 4, 6, 7)).astype(np.float32), random.normal(size=(4, 3, 3, 3)).astype(np.float32)
signs = np.array([np.inf, -np.inf, 1], np.float32)


def same(operator, x, weights, shape, **words):
    """Whether TVM gives what onnxruntime gives."""
    names = [f"w{i}" for i in range(len(weights))]
    kind = onnx.TensorProto.BOOL if operator == "IsInf" else onnx.TensorProto.FLOAT
    ends = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *names], ["y"], **words)], "g", [ends[0]], [ends[1]],
        [numpy_helper.from_array(each, name) for each, name in zip(weights, names, strict=True)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})[0]
    compiled = tvm.compile(from_onnx(model, keep_params_in_input=False), target="llvm")
    found = relax.VirtualMachine(compiled, tvm.cpu())["main"](tvm.runtime.tensor(x))
    found = (found if hasattr(found, "numpy") else found[0]).numpy()
    agrees = wanted.shape == found.shape and bool(np.allclose(wanted, found, atol=1e-4))
    print(f"{operator} {words}: {'right' if agrees else 'wrong'}, {wanted.shape} and {found.shape}", flush=True)
    return agrees


wrong = [
    same("ConvTranspose", image, [kernel], [1, 3, 12, 14], strides=[2, 2], output_shape=[12, 14]),
    same("IsInf", signs, [], [3], detect_negative=0),
    same("IsInf", signs, [], [3], detect_positive=0),
]
right = [
    same("ConvTranspose", image, [kernel], [1, 3, 12, 14], strides=[2, 2], pads=[1, 1, 0, 0]),
    same("ConvTranspose", image, [kernel], [1, 3, 13, 15], strides=[2, 2]),
    same("IsInf", signs, [], [3]),
]
holds = not any(wrong) and all(right)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
