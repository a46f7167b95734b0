#!/usr/bin/env bash
# pnnx 20261020 leaves the sizes of ONNX's Split with num_outputs (opset 18) to ncnn 1.0.20261020, which makes the first part
# the smallest where they do not divide: 8 channels in 3 become 2, 3 and 3, where ONNX and torch.chunk mean 3, 3 and 2. No error; the
# parts begin at other channels. Sizes that are written down, and parts that divide, are right. Way out: torch.split with sizes.
# Exit 0 while this holds.
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




def split(parts, sizes=None):
    names = [f"p{i}" for i in range(parts)]
    words = {} if sizes else {"num_outputs": parts}
    nodes = [helper.make_node("Split", ["a", "sizes"] if sizes else ["a"], names, axis=1, **words),
             helper.make_node("Concat", names[::-1], ["y"], axis=1)]
    return off(answers(nodes, {"sizes": np.array(sizes, np.int64)} if sizes else {}))


uneven, written, even = split(3), split(3, [3, 3, 2]), split(4)
print("pnnx 20261020 Split of 8 channels in 3 parts: off by", round(uneven, 4))
print("pnnx 20261020 the same with sizes 3, 3, 2: off by", round(written, 6), "- in 4 parts:", round(even, 6))
assert uneven > 0.5 and written < 0.01 and even < 0.01
PY
