#!/usr/bin/env bash
# pnnx 20261020 gives an ONNX MaxPool with an uneven border another size in ncnn 1.0.20261020. By pads of [0, 0, 1, 1] and a stride of two, as
# TensorFlow's SAME becomes, 9 rows give 5 in place of 4; by [1, 0, 0, 1] rows are added that hold -3.4e38. No error, neither when converting nor when
# running: what follows reads shifted rows, or a sum over them. The same border on both sides is right, and so are convolutions with the
# same uneven pads. Way out: pad in front of the pool by the lowest number, with a Pad of its own. Exit 0 while this holds.
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
    """The largest difference; inf where the shapes differ."""
    right, found = pair
    return float(np.abs(right - found).max()) if right.shape == found.shape else np.inf


def pool(pads, stride):
    node = helper.make_node("MaxPool", ["a"], ["y"], kernel_shape=[3, 3], strides=[stride, stride], pads=pads)
    return answers([node], {})


def convolution(pads):
    kernel = random.standard_normal((4, 8, 3, 3)).astype(np.float32)
    return answers([helper.make_node("Conv", ["a", "k"], ["y"], pads=pads)], {"k": kernel})


for pads, stride, fits in (
    ([1, 1, 1, 1], 2, True),
    ([1, 0, 1, 0], 2, True),
    ([0, 0, 1, 1], 2, False),
    ([1, 0, 0, 1], 1, False),
    ([1, 0, 0, 1], 2, False),
):
    right, found = pair = pool(pads, stride)
    print("pnnx 20261020, MaxPool, pads", pads, "stride", stride, "ncnn:", found.shape, "onnxruntime:", right.shape)
    assert (off(pair) < 1e-3) == (right.shape == found.shape) == fits, (pads, stride)
    assert off(convolution(pads)) < 1e-3, pads
PY
