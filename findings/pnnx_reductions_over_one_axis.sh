#!/usr/bin/env bash
# pnnx 20261020 loses the axes of an ONNX reduction where they are an input that holds one axis, as in opset 18 (ReduceSum: 13
# and newer): ncnn 1.0.20261020 then reduces nothing, without an error, and gives a result of the input's size. ReduceL1,
# ReduceL2, ReduceLogSumExp, ReduceMean and ReduceSum do so; torch.onnx writes x.mean(1) and F.normalize(x) like this. Two
# axes, or axes that are an attribute (opset 13), are right. Way out: opset 13, or pnnx from TorchScript. Exit 0 while this holds.
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


for kind in ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceSum"):
    for axes in ([1], [3], [1, 2]):
        given = {"axes": np.array(axes, np.int64)}
        right, found = answers([helper.make_node(kind, ["a", "axes"], ["y"], keepdims=0)], given)
        print("pnnx 20261020", kind, "over", axes, "as an input:", right.shape, "->", found.shape)
        assert (found.shape == (8, 9, 6)) == (len(axes) == 1)
        assert len(axes) == 1 or off((right, found)) < 0.01
        if kind != "ReduceSum":
            pair = answers([helper.make_node(kind, ["a"], ["y"], keepdims=0, axes=axes)], {}, opset=13)
            assert off(pair) < 0.01, (kind, axes)
PY
