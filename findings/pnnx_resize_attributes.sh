#!/usr/bin/env bash
# pnnx 20261020 leaves out what ONNX's Resize says beside its size: "asymmetric" places of a linear one, antialias=1 and
# cubic_coeff_a. ncnn 1.0.20261020 then resizes by half pixels, unsmoothed and with the coefficient -0.75, without an error; the
# asymmetric bilinear one that older exporters wrote for TensorFlow models is off by a third of the values. Half pixels, aligned
# corners, the standard coefficient and nearest by asymmetric places rounded down are right. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 ncnn==1.0.20261020
"$folder/venv/bin/pip" install --quiet --no-deps pnnx==20261020
cd "$folder"
venv/bin/python - 2> log <<'PY'
import importlib.util
import subprocess
from pathlib import Path

import ncnn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)


def answers(nodes, constants, opset=18):
    """(onnxruntime's, ncnn's) result of nodes that read a and give y, behind a convolution of an image."""
    image = random.standard_normal((1, 8, 9, 6)).astype(np.float32)
    constants = constants | {"w": random.standard_normal((8, 8, 1, 1)).astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["a"]), *nodes], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": image})[0][0]
    for old in Path(".").glob("net.ncnn.*"):
        old.unlink()
    command = [Path(importlib.util.find_spec("pnnx").origin).with_name("pnnx"), "net.onnx", "fp16=0"]
    subprocess.run(command, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    assert net.load_param("net.ncnn.param") == 0 and net.load_model("net.ncnn.bin") == 0
    runs = net.create_extractor()
    runs.input("in0", ncnn.Mat(image[0]).clone())
    done, found = runs.extract("out0")
    assert done == 0
    return right, np.array(found)


def off(pair):
    """The largest difference, or None where the shapes differ."""
    right, found = pair
    return float(np.abs(right - found).max()) if right.shape == found.shape else None


HALF, CORNERS, ASYMMETRIC = ({"coordinate_transformation_mode": name} for name in ("half_pixel", "align_corners", "asymmetric"))
CASES = {
    "linear, half_pixel": (HALF | {"mode": "linear"}, (18, 12), False),
    "linear, align_corners": (CORNERS | {"mode": "linear"}, (18, 12), False),
    "linear, asymmetric": (ASYMMETRIC | {"mode": "linear"}, (18, 12), True),
    "linear, half_pixel, smaller": (HALF | {"mode": "linear"}, (5, 3), False),
    "linear, half_pixel, smaller, antialias": (HALF | {"mode": "linear", "antialias": 1}, (5, 3), True),
    "cubic, half_pixel": (HALF | {"mode": "cubic"}, (18, 12), False),
    "cubic, half_pixel, cubic_coeff_a=-0.5": (HALF | {"mode": "cubic", "cubic_coeff_a": -0.5}, (18, 12), True),
    "nearest, asymmetric, floor": (ASYMMETRIC | {"mode": "nearest", "nearest_mode": "floor"}, (18, 12), False),
}
for name, (words, size, broken) in CASES.items():
    node = helper.make_node("Resize", ["a", "", "", "size"], ["y"], **words)
    far = off(answers([node], {"size": np.array([1, 8, *size], np.int64)}))
    print("pnnx 20261020 Resize", name, "off by", round(far, 4))
    assert far > 0.1 if broken else far < 0.01, name
PY
