#!/usr/bin/env bash
# pnnx 20261020 and ncnn 1.0.20261020: an AveragePool that rounds its size up (ceil_mode) and counts its border (count_include_pad, the default of nn.AvgPool2d) divides
# by the whole window where that reaches beyond the border, which ONNX and PyTorch do not count: the last column of an even number, by 3×3
# windows and strides of two, comes out a third too small, without an error. Rounded down, or with a border that is not counted, all are right. Way out: round
# sizes down, or pad behind instead. Exit 0 while this holds.
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


for ceil in (0, 1):
    for counted in (0, 1):
        words = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": ceil, "count_include_pad": counted}
        right, found = answers([helper.make_node("AveragePool", ["a"], ["y"], **words)], {})
        assert right.shape == found.shape
        off = np.abs(found - right)
        print(f"pnnx 20261020: ceil_mode={ceil} count_include_pad={counted}: off by {off.max() / np.abs(right).max():.3f} of the largest; but for the last column by {off[:, :, :-1].max():.1e}")
        if ceil and counted:
            assert off[:, :, :-1].max() < 1e-5 < off.max() and np.allclose(found[:, :, -1], right[:, :, -1] * 2 / 3, atol=1e-5)
        else:
            assert off.max() < 1e-5
PY
