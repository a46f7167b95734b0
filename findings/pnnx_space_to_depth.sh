#!/usr/bin/env bash
# pnnx 20261020 puts the channels of an ONNX SpaceToDepth into another order for ncnn 1.0.20261020. ONNX (and TensorFlow) count the place within
# a block first and the channels within it; ncnn gets torch's pixel_unshuffle, which counts the channels first. Same size, no error; what reads
# the channels by number, such as the next convolution, gives other outputs. One channel hides it. Shrink comes out otherwise too: its bias
# is left out. DepthToSpace in the mode CRD, the pixel_shuffle of torch, is right. Way out: Reshape and Transpose in place of the operator. Exit 0 while this holds.
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


def order(pair, blocks=9):
    """Whether ncnn has the right channels in the order of torch's pixel_unshuffle."""
    right, found = pair
    return np.allclose(right.reshape(blocks, 8, *right.shape[1:]).swapaxes(0, 1).reshape(right.shape), found, atol=1e-3)


space = answers([helper.make_node("SpaceToDepth", ["a"], ["y"], blocksize=3)], {})
print("pnnx 20261020, SpaceToDepth off by", off(space), "in the order of pixel_unshuffle:", order(space))
assert off(space) > 0.1 and order(space)
back = answers([helper.make_node("DepthToSpace", ["a"], ["y"], blocksize=2, mode="CRD")], {})
shrunk, plain = (answers([helper.make_node("Shrink", ["a"], ["y"], lambd=0.5, bias=bias)], {}) for bias in (0.2, 0.0))
print("pnnx 20261020, DepthToSpace CRD off by", off(back), "Shrink off by", off(shrunk), "without a bias by", off(plain))
assert off(back) < 1e-3 and abs(off(shrunk) - 0.2) < 1e-3 and off(plain) < 1e-3
PY
