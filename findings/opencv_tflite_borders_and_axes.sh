#!/usr/bin/env bash
# OpenCV 5.0.0's DNN reads .tflite files with other results than LiteRT, without an error:
# - AVERAGE_POOL_2D with SAME divides by the whole window at the border: the corner of an image of ones is 4/9 behind a 3x3 pool,
# - SOFTMAX of an image is taken over the columns, not over the channels, as a segmentation's last layer has it (opencv/opencv#25296 asks for the axis),
# - constants that are added or multiplied are turned to channels first only where they are a vector: a map of positions (1, H, W, C) or
#   (H, W, 1) is read in the wrong order, where its size allows that (images as wide as high with as many channels, or one channel).
# The input is given as OpenCV wants it, channels first. A vector for the channels, SAME in convolutions and max pools, and a softmax of a row
# are right. Way out: the ONNX file. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 opencv-python-headless==5.0.0.93 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
venv/bin/python - 2>log <<'PY' || { tail -5 log; exit 2; }
import cv2
import numpy as np
import tensorflow as tf

some = np.random.default_rng(0).standard_normal
weight, position, vector = (some(shape).astype(np.float32) for shape in ((3, 3, 4, 4), (8, 8, 1), (4,)))


def answers(function, x):
    """LiteRT's and OpenCV's answer, both as TensorFlow orders axes."""
    made = tf.function(function).get_concrete_function(tf.TensorSpec(x.shape, tf.float32))
    with open("a.tflite", "wb") as file:
        file.write(tf.lite.TFLiteConverter.from_concrete_functions([made]).convert())
    reader = tf.lite.Interpreter("a.tflite")
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], x)
    reader.invoke()
    lite = reader.get_tensor(reader.get_output_details()[0]["index"])
    assert np.allclose(lite, made(tf.constant(x)), atol=1e-5)
    net = cv2.dnn.readNetFromTFLite("a.tflite")
    net.setInput(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    found = net.forward()
    return lite, found.transpose(0, 2, 3, 1) if found.ndim == 4 else found


image, ones = some((1, 8, 8, 4)).astype(np.float32), np.ones((1, 8, 8, 4), np.float32)
print("OpenCV", cv2.__version__, "corner of an average of ones:", answers(lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME"), ones)[1][0, 0, 0, 0])
_, probabilities = answers(tf.nn.softmax, image)
print("OpenCV", cv2.__version__, "a softmax sums up to", probabilities.sum(-1)[0, 0, :3].round(2), "over channels and", probabilities.sum(2)[0, 0].round(2), "over columns")
assert np.allclose(probabilities.sum(2), 1, atol=1e-5)
cases = {
    "average pool, SAME": (lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME"), image, False),
    "average pool, VALID": (lambda x: tf.nn.avg_pool2d(x, 3, 1, "VALID"), image, True),
    "max pool, SAME": (lambda x: tf.nn.max_pool2d(x - 5, 3, 2, "SAME"), image, True),
    "convolution, SAME": (lambda x: tf.nn.conv2d(x, weight, 2, "SAME"), image, True),
    "softmax of an image": (tf.nn.softmax, image, False),
    "softmax of a row": (lambda x: tf.nn.softmax(tf.reshape(x, [1, -1])), image, True),
    "a map of positions added": (lambda x: x + position, image, False),
    "a map of positions multiplied": (lambda x: x * position, image, False),
    "a vector for the channels": (lambda x: x * vector, image, True),
}
for name, (function, x, is_right) in cases.items():
    lite, found = answers(function, x)
    off = np.abs(lite - found).max() / np.abs(lite).max() if lite.shape == found.shape else np.inf
    print(f"OpenCV {cv2.__version__}: {name}: off by {off:.1e} of the largest")
    assert (off < 1e-5) == is_right, name
    assert is_right or off > 0.1
PY
