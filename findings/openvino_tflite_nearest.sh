#!/usr/bin/env bash
# OpenVINO 2026.4.1 reads RESIZE_NEAREST_NEIGHBOR of a .tflite file as if half_pixel_centers, which tf.image.resize(…, "nearest") and Keras write,
# were not set: halving takes rows 0, 2, 4 where TensorFlow and LiteRT take 1, 3, 5, and wherever a size is no multiple of the other
# most pixels are others. No error. Enlarging by a whole number hides it. SCATTER_ND keeps the last of what goes to one place, where TensorFlow
# and LiteRT add them up. Way out: the ONNX file, or a strided slice where the factor is whole. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 openvino==2026.4.1 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
venv/bin/python - 2>log <<'PY' || { tail -5 log; exit 2; }
import numpy as np
import openvino
import tensorflow as tf


def answers(function, x):
    """TensorFlow's, LiteRT's and OpenVINO's answer."""
    made = tf.function(function).get_concrete_function(tf.TensorSpec(x.shape, tf.float32))
    with open("a.tflite", "wb") as file:
        file.write(tf.lite.TFLiteConverter.from_concrete_functions([made]).convert())
    reader = tf.lite.Interpreter("a.tflite")
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], x)
    reader.invoke()
    core = openvino.Core()
    found = core.compile_model(core.read_model("a.tflite"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    return made(tf.constant(x)).numpy(), reader.get_tensor(reader.get_output_details()[0]["index"]), found


image = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None], (1, 8, 8, 1)).copy()
for size, is_right in (((4, 4), False), ((5, 5), False), ((11, 11), False), ((2, 2), False), ((3, 3), False), ((16, 16), True), ((24, 24), True)):
    wanted, lite, found = answers(lambda x, size=size: tf.image.resize(x, size, "nearest"), image)
    rows = [each[0, :, 0, 0].astype(int).tolist() for each in (wanted, found)]
    print(f"OpenVINO {openvino.__version__[:8]}: 8 rows to {size[0]}: TensorFlow and LiteRT take {rows[0]}, OpenVINO {rows[1]}")
    assert np.array_equal(wanted, lite)
    assert np.array_equal(wanted, found) == is_right, size
wanted, lite, found = answers(lambda x: tf.scatter_nd([[1], [3], [1]], x, [5, 2]), np.float32([[1, 2], [3, 4], [5, 6]]))
print("OpenVINO: rows (1, 2) and (5, 6) scattered to one place are", found[1].tolist(), "where TensorFlow and LiteRT say", wanted[1].tolist())
assert np.array_equal(wanted, lite) and found[1].tolist() == [5, 6] and wanted[1].tolist() == [6, 8]
PY
