#!/usr/bin/env bash
# OpenVINO 2026.4.1 leaves attributes of ONNX's Resize out without a word: `antialias=1` (opset 18, what torch.onnx writes for
# F.interpolate(..., antialias=True) and torchvision's Resize) reads single pixels, `keep_aspect_ratio_policy` gives a result of
# another shape than the standard says, `exclude_outside=1` another border. The file loads, and onnx's full check and onnxruntime
# agree on what it means. OpenVINO's own torch front end refuses antialiasing by name instead. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

stripes = np.tile(np.float32([0, 1, 1, 0]), (1, 1, 16, 4))  # the middle of each four is white, the mean of all is grey


def model(inputs, values, **attributes):
    node = helper.make_node("Resize", inputs, ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, *shape]) for name, shape in (("x", stripes.shape[2:]), ("y", "hw"))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in values.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


small, sizes = {"s": np.float32([1, 1, 0.25, 0.25])}, {"s": np.array([4, 12])}
cases = {
    "no attribute": model(["x", "", "s"], small, mode="linear"),
    "antialias": model(["x", "", "s"], small, mode="linear", antialias=1),
    "keep_aspect_ratio_policy": model(["x", "", "", "s"], sizes, mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    "exclude_outside": model(["x", "", "s"], {"s": np.float32([1, 1, 2, 2])}, mode="cubic", exclude_outside=1),
}
print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__)
wrong = []
for name, data in cases.items():
    core = openvino.Core()
    wanted = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": stripes})[0]
    found = core.compile_model(core.read_model(data, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": stripes})[0]
    same = found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-4)
    print(f"{name}: {'the same' if same else 'differs'}, onnxruntime {wanted.shape[2:]} {wanted[0, 0, 0, :3].round(2)}, OpenVINO {found.shape[2:]} {found[0, 0, 0, :3].round(2)}")
    wrong += [] if same else [name]
raise SystemExit(wrong != ["antialias", "keep_aspect_ratio_policy", "exclude_outside"])
PY
