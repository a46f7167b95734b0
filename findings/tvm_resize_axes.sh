#!/usr/bin/env bash
# TVM 0.27.0.post1's relax front end for ONNX takes the last two axes of a Resize by scales, whichever they are given for: an image with
# its channels behind, (1, 5, 6, 4) by [1, 2, 2, 1], comes out as (1, 5, 12, 4) where ONNX says (1, 10, 12, 4), and the numbers are others,
# without an error. Scales for the last two axes are right; so is the same image turned by Transpose. onnxruntime and numpy agree.
# Way out: turn the image around the Resize. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apache-tvm==0.27.0.post1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

X = np.random.default_rng(0).standard_normal((1, 5, 6, 4)).astype(np.float32)


def answers(scales, perm=None):
    """onnxruntime's and TVM's, by nearest pixels, which repeat."""
    words = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [helper.make_node("Resize", ["x", "", "s"], ["y"], **words)]
    wanted = X
    for axis, scale in enumerate(scales):
        wanted = wanted.repeat(int(scale), axis)
    if perm:
        nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=perm), helper.make_node("Resize", ["t", "", "s"], ["u"], **words),
                 helper.make_node("Transpose", ["u"], ["y"], perm=np.argsort(perm).tolist())]
        scales = [scales[i] for i in perm]
    shapes = {"x": X.shape, "y": wanted.shape}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.float32(scales), "s")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": X})[0], wanted)
    module = relax.get_pipeline("zero")(from_onnx(model, keep_params_in_input=False))
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    return wanted, machine["main"](tvm.runtime.tensor(X)).numpy()


for scales, perm, is_right in (([1, 2, 2, 1], None, False), ([1, 2, 1, 1], None, False), ([1, 1, 2, 3], None, True),
                               ([1, 2, 2, 1], [0, 3, 1, 2], True)):
    wanted, found = answers(scales, perm)
    print("TVM", tvm.__version__, "Resize by", scales, "turned" if perm else "", "gives", found.shape, "for", wanted.shape)
    assert (found.shape == wanted.shape and np.allclose(found, wanted)) == is_right
PY
