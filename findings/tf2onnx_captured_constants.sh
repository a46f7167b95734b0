#!/usr/bin/env bash
# tf2onnx 1.17.0 (TensorFlow 2.21.0) loses the values of a tf.constant that a tf.function finds outside of itself, as the
# weights of most functions do: `convert.from_function` makes an input of it, exits without an error and writes a file
# that holds no weights and has one input more for each. The same function is right with tf.Variable in place of
# tf.constant, and TensorFlow's own converter to TFLite keeps the constant. Output seen: inputs ['x', 'matmul/b:0'], 0
# initializers. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 tf2onnx==1.17.0 onnx==1.23.2 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
from importlib.metadata import version

import numpy as np
import tensorflow as tf
import tf2onnx

matrix = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
signature = [tf.TensorSpec((4, 64), tf.float32, name="x")]


def converted(weight):
    function = tf.function(lambda x: x @ weight, input_signature=signature)
    model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17)
    return [value.name for value in model.graph.input], len(model.graph.initializer), function


print("tf2onnx", version("tf2onnx"), "TensorFlow", tf.__version__)
inputs, count, function = converted(tf.constant(matrix))
print(f"tf.constant: inputs {inputs}, {count} initializers")
right, kept, _ = converted(tf.Variable(matrix))
print(f"tf.Variable: inputs {right}, {kept} initializers")
lite = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module()).convert()
print(f"TFLite of the tf.constant: {len(lite):,} bytes for a matrix of {matrix.nbytes:,}")
lost = len(inputs) == 2 and count == 0
raise SystemExit(not (lost and right == ["x"] and kept == 1 and len(lite) > matrix.nbytes))
PY
