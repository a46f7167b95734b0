#!/usr/bin/env bash
# tract 0.23.9 and MNN 3.6.1 cut the wrong side of a ConvTranspose that says output_shape. The standard divides what is to be cut off into pads, of
# which the first gets the larger part unless auto_pad is SAME_UPPER; both tools cut it off behind, so that with an odd rest, as doubling by a
# kernel of three has it, the whole image is shifted by one place, without an error. TensorFlow's Conv2DTranspose names its size so. onnxruntime follows the
# standard. The same layer with pads written out is right in both (the way out). The stand-in for pip keeps MNN's converter
# from installing packages (mnn_tools_run_pip.sh). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tract==0.23.9 mnn==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
mkdir "$folder/first"; printf '#!/bin/sh\nexit 1\n' > "$folder/first/pip"; chmod +x "$folder/first/pip"
cd "$folder"
PATH="$folder/first:$PATH" venv/bin/python - 2> log <<'PY'
import subprocess

import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
X, W = random.standard_normal((1, 2, 5, 6)).astype(np.float32), random.standard_normal((2, 4, 3, 3)).astype(np.float32)


def answers(**attributes):
    """(onnxruntime's, tract's, MNN's)."""
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(W, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    command = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "x"]
    subprocess.run(command, check=True, capture_output=True)
    net = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    found = np.array(net.forward([expr.const(X, list(X.shape), expr.NCHW, expr.float)])[0].read())
    return right, tract.onnx().load("net.onnx").into_model().into_runnable().run([X])[0].to_numpy(), found.reshape(right.shape)


whole, *others = answers()
assert whole.shape[2:] == (11, 13) and all(np.allclose(whole, other, atol=1e-4) for other in others)
sized, by_pads = answers(output_shape=[10, 12]), answers(pads=[1, 1, 0, 0])
for tool, named, written in zip(("onnxruntime 1.32.0", "tract 0.23.9", "MNN 3.6.1"), sized, by_pads):
    places = {"in front": whole[..., 1:, 1:], "behind": whole[..., :-1, :-1]}
    cut = [side for side, kept in places.items() if np.allclose(named, kept, atol=1e-4)]
    print(f"{tool}: output_shape cuts {cut}; with pads {[1, 1, 0, 0]} right: {np.allclose(written, by_pads[0], atol=1e-4)}")
    assert cut == (["in front"] if tool.startswith("onnxruntime") else ["behind"])
    assert np.allclose(written, places["in front"], atol=1e-4)
PY
