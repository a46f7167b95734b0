#!/usr/bin/env bash
# onnx2tf 1.29.24 leaves attributes of ONNX operators out, or reads them as TensorFlow's own operator would have them, without an error:
# - Mod with fmod=1 takes the sign of the divisor (torch.fmod), floats and integers,
# - ScatterND with reduction="add" replaces what is there, and keeps one of what goes to a place,
# - GlobalLpPool with p=1 is the root of the squares,
# - AveragePool with ceil_mode and count_include_pad divides by the whole window beyond the image,
# - a nearest Resize by half pixels (ONNX's default, nearest-exact in torch) to half the size reads the next pixel.
# Without fmod, reduction, p, count_include_pad, and by asymmetric places rounded down (F.interpolate's nearest), all are right. numpy
# and onnxruntime agree where both say. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx2tf==1.29.24
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
cat > make.py <<'PY'
import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

some = np.random.default_rng(0).standard_normal
small, places = np.float32([1, 1, 0.5, 0.5]), np.array([[1], [1], [3]])
image, rows = some((1, 4, 6, 8)).astype(np.float32), some((4, 5)).astype(np.float32)
pool = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
cases = [  # name, operator, what it reads beside x, attributes, x, whether the file is right
    ("fmod", "Mod", {"s": np.float32(0.7)}, {"fmod": 1}, rows, False),
    ("scatter_add", "ScatterND", {"i": places, "u": some((3, 5)).astype(np.float32)}, {"reduction": "add"}, rows, False),
    ("scatter", "ScatterND", {"i": places[1:], "u": some((2, 5)).astype(np.float32)}, {}, rows, True),
    ("norm_1", "GlobalLpPool", {}, {"p": 1}, image, False),
    ("norm_2", "GlobalLpPool", {}, {"p": 2}, image, True),
    ("counted", "AveragePool", {}, pool | {"count_include_pad": 1}, image, False),
    ("not_counted", "AveragePool", {}, pool, image, True),
    ("half", "Resize", {"": None, "f": small}, {"mode": "nearest"}, image, False),
    ("half_asymmetric", "Resize", {"": None, "f": small}, {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}, image, True),
    ("twice", "Resize", {"": None, "f": 1 / small}, {"mode": "nearest"}, image, True),
    ("linear", "Resize", {"": None, "f": 1 / small}, {"mode": "linear"}, image, True),
]
by_hand = {
    "fmod": lambda x, stored: np.fmod(x, stored["s"]),
    "scatter_add": lambda x, stored: np.stack([x[0], x[1] + stored["u"][0] + stored["u"][1], x[2], x[3] + stored["u"][2]]),
    "norm_1": lambda x, stored: np.abs(x).sum((2, 3), keepdims=True),
    "half": lambda x, stored: x[:, :, ::2, ::2],  # a place between two is the one below
}
right = {}
for name, kind, stored, attributes, x, right[name] in cases:
    node = helper.make_node(kind, ["x", *stored], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items() if k])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{name}.onnx")
    wanted = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert name not in by_hand or np.allclose(by_hand[name](x, stored), wanted, atol=1e-4), name
    np.savez(name, x=x, y=wanted)
with open("right.json", "w") as file:
    json.dump(right, file)
PY
venv/bin/python make.py
venv/bin/python - >log 2>&1 <<'PY' || { tail -5 log; exit 2; }
import json

import onnx2tf

for name in json.load(open("right.json")):
    onnx2tf.convert(input_onnx_file_path=f"{name}.onnx", output_folder_path=name, non_verbose=True)
PY
venv/bin/python - 2>log <<'PY' || { tail -5 log; exit 2; }
import json

import numpy as np
from ai_edge_litert.interpreter import Interpreter

with open("right.json") as file:
    right = json.load(file)
for name, is_right in right.items():
    kept = np.load(f"{name}.npz")
    reader = Interpreter(f"{name}/{name}_float32.tflite")
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], kept["x"].transpose(0, 2, 3, 1) if kept["x"].ndim == 4 else kept["x"])
    reader.invoke()
    found = reader.get_tensor(reader.get_output_details()[0]["index"])
    found = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
    assert found.shape == kept["y"].shape, name
    off = np.abs(found - kept["y"]).max() / np.abs(kept["y"]).max()
    print(f"onnx2tf 1.29.24: {name}: off by {off:.1e} of the largest")
    assert (off < 1e-5) == is_right and (is_right or off > 1e-2), name
PY
