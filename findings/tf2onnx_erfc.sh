#!/usr/bin/env bash
# tf2onnx 1.17.0 (TensorFlow 2.21.0, Keras 3.15.1) converts a Keras layer with activation="gelu" to a file that no runtime
# loads, and its command exits 0: TensorFlow computes the exact GELU by Erfc, for which ONNX has no operator, and tf2onnx
# logs "Unsupported ops" and writes a node of that name into ONNX's own domain. onnx.checker and onnxruntime refuse
# the file. Way out: keras.activations.gelu(x, approximate=True), or check the file after converting. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import keras

model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, activation="gelu")])
model.export("saved", verbose=False)
PY
code=0
"$folder/venv/bin/python" -m tf2onnx.convert --saved-model saved --output model.onnx --opset 18 2>log || code=$?
echo "tf2onnx exits $code:"; grep -o "Unsupported ops.*" log | head -1
"$folder/venv/bin/python" - "$code" <<'PY'
import sys
from importlib.metadata import version

import onnx
import onnxruntime

print("tf2onnx", version("tf2onnx"), [node.op_type for node in onnx.load("model.onnx").graph.node])
refused = []
for name, load in (
    ("onnx.checker", lambda: onnx.checker.check_model("model.onnx")),
    ("onnxruntime", lambda: onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])),
):
    try:
        load()
    except Exception as error:
        refused.append(name)
        print(f"{name}: {' '.join(str(error).split())[:110]}")
raise SystemExit((sys.argv[1], refused) != ("0", ["onnx.checker", "onnxruntime"]))
PY
