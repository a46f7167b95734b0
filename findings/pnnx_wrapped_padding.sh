#!/usr/bin/env bash
# pnnx 20261020 turns ONNX's Pad with mode="wrap" (opset 19), which continues an image at its other side, into a border of zeros
# for ncnn 1.0.20261020, without an error; "constant", "edge" and "reflect" are right. A Conv2d with padding_mode="circular" and F.pad(…, mode="circular")
# export like this. Way out: torch.cat of the columns and rows from the other side. Exit 0 while this holds.
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


BORDERS = np.array([0, 0, 1, 1, 0, 0, 1, 2], np.int64)
for mode in ("constant", "edge", "reflect", "wrap"):
    right, found = answers([helper.make_node("Pad", ["a", "pads"], ["y"], mode=mode)], {"pads": BORDERS}, opset=19)
    border = np.ones(right.shape, bool)
    border[:, 1:-1, 1:-2] = False
    print("pnnx 20261020 Pad", mode, "off by", round(off((right, found)), 4), "largest of the border", float(np.abs(found[border]).max()))
    assert off((right[~border], found[~border])) < 0.01
    assert off((right, found)) > 0.5 and not found[border].any() if mode == "wrap" else off((right, found)) < 0.01
PY
