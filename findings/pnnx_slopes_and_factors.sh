#!/usr/bin/env bash
# pnnx 20261020 makes other layers of two ONNX operators for ncnn 1.0.20261020, without an error when converting or running:
# - PRelu reads its slopes as those of channels, whatever axis they belong to: slopes of columns (6), of rows (9, 1) or of every place of a
#   map are given to the channels, and beyond their end memory is read. ONNX stretches them as numpy does, from the last axis.
# - Gemm that is no plain layer, with an alpha or beta other than 1, or a matrix that is not transposed and no bias, becomes a product with the whole
#   vector as a column: ncnn answers with a matrix of another size. torch.addmm(…, beta=2), scaled heads and older exporters write such.
# - a nearest Resize by half pixels or aligned corners, rounded down, takes the pixels of an asymmetric one.
# Slopes of channels (C, 1, 1), an nn.Linear with and without bias, and F.interpolate's nearest (asymmetric) are right. Exit 0 while this holds.
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


def some(*shape):
    return random.standard_normal(shape).astype(np.float32)


def answers(nodes, constants):
    """(onnxruntime's, ncnn's) result of nodes that read a and give y, behind a convolution of an image."""
    image = some(1, 8, 9, 6)
    stored = constants | {"w": some(8, 8, 1, 1)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["a"]), *nodes], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(value, name) for name, value in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
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


def prelu(*shape):
    return [helper.make_node("PRelu", ["a", "s"], ["y"])], {"s": some(*shape)}


def gemm(turned=1, bias=True, **factors):
    nodes = [helper.make_node("GlobalAveragePool", ["a"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("Gemm", ["f", "g", *["c"] * bias], ["y"], transB=turned, **factors)]
    return nodes, {"g": some(4, 8) if turned else some(8, 4)} | ({"c": some(4)} if bias else {})


def resize(mode, factor):
    node = helper.make_node("Resize", ["a", "", "f"], ["y"], mode="nearest", nearest_mode="floor", coordinate_transformation_mode=mode)
    return [node], {"f": np.float32([1, 1, factor, factor])}


cases = {
    "slopes of channels": (prelu(8, 1, 1), True),
    "slopes of columns": (prelu(6), False),
    "slopes of rows": (prelu(9, 1), False),
    "slopes of places": (prelu(8, 9, 6), False),
    "Gemm of a layer": (gemm(), True),
    "Gemm of a layer without bias": (gemm(bias=False), True),
    "Gemm, not transposed, with bias": (gemm(turned=0), True),
    "Gemm, not transposed, without bias": (gemm(turned=0, bias=False), False),
    "Gemm with alpha": (gemm(alpha=0.5), False),
    "Gemm with beta": (gemm(beta=2.0), False),
    "nearest, asymmetric": (resize("asymmetric", 2), True),
    "nearest, half pixels": (resize("half_pixel", 2), False),
    "nearest, torch's half pixels": (resize("pytorch_half_pixel", 2), False),
    "nearest, corners": (resize("align_corners", 2), False),
}
for name, (parts, is_right) in cases.items():
    right, found = answers(*parts)
    off = float(np.abs(right - found).max() / np.abs(right).max()) if right.shape == found.shape else np.inf
    print(f"pnnx 20261020, ncnn {ncnn.__version__}: {name}: onnxruntime {right.shape}, ncnn {found.shape}, off by {off:.1e} of the largest")
    assert (off < 1e-4) == is_right and (is_right or not off < 0.1), name
PY
