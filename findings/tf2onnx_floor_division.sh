#!/usr/bin/env bash
# tf2onnx 1.17.0 rounds the quotient of integers towards zero where TensorFlow's // and % round down: floordiv becomes ONNX's Div alone and
# floormod x - y * Div(x, y). -7 // 2 is -3 in place of -4, -7 % 3 is -1 in place of 2, from a SavedModel and from a .tflite file,
# without a word. Relative positions, wrapped indices (-1 % n becomes -1) and rounding up by -(-n // m), as lengths behind a convolution
# are computed, come out otherwise. Floats are right. On record since 2023 (onnx/tensorflow-onnx#2174) for the quotient.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
venv/bin/python - 2>log <<'PY'
import tensorflow as tf


class Rounded(tf.Module):
    def __init__(self, kind):
        super().__init__()
        self.call = tf.function(lambda x: (x // 3, x % 3), input_signature=[tf.TensorSpec([9], kind)])


for kind in (tf.int32, tf.float32):
    module = Rounded(kind)
    tf.saved_model.save(module, kind.name, signatures=module.call.get_concrete_function())
    with open(f"{kind.name}.tflite", "wb") as file:
        file.write(tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module).convert())
PY
for kind in int32 float32; do
  venv/bin/python -m tf2onnx.convert --saved-model $kind --output $kind-saved.onnx --opset 18 >>log 2>&1
  venv/bin/python -m tf2onnx.convert --tflite $kind.tflite --output $kind-tflite.onnx --opset 18 >>log 2>&1
done
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime

for kind in ("int32", "float32"):
    x = np.arange(-7, 2, dtype=kind)
    for source in ("saved", "tflite"):
        session = onnxruntime.InferenceSession(f"{kind}-{source}.onnx", providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x})
        pairs = {(tuple(found[0].tolist()), tuple(found[1].tolist())), (tuple(found[1].tolist()), tuple(found[0].tolist()))}
        down, cut = (x // 3, x % 3), (np.trunc(x / 3).astype(kind), np.fmod(x, 3))
        print(f"tf2onnx 1.17.0, {kind} from {source}: {x.tolist()} // 3 and % 3 are {[each.tolist() for each in found]}, TensorFlow and numpy say {[each.tolist() for each in down]}")
        wanted = cut if kind == "int32" else down
        assert tuple(tuple(each.tolist()) for each in wanted) in pairs
PY
