#!/usr/bin/env bash
# tf2onnx 1.17.0, reading a .tflite file, loses the bias of a fully connected layer that reads more than two axes. TensorFlow's converter folds the
# Flatten of a pooled map (1, 1, 1, C) in front of a Dense into FULLY_CONNECTED, which flattens by itself (keep_num_dims=0); tf2onnx writes a
# Reshape and a MatMul there, and no Add. Nothing is said, the file passes onnx's full check, and onnxruntime answers without the bias, of
# classifiers that end as MobileNet does: average pool or GlobalAveragePooling2D(keepdims=True), Flatten, Dense. Where the pool leaves a row, where
# Flatten takes a larger map, and from Keras in place of TFLite, the bias stays. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
cat > make.py <<'PY'
import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(0)
bias = keras.initializers.RandomNormal(stddev=1.0)
models = {
    name: keras.Sequential([keras.layers.Input((8, 8, 3), batch_size=1), keras.layers.Conv2D(4, 3), *between,
                            keras.layers.Dense(5, bias_initializer=bias)])
    for name, between in {
        "pooled": [keras.layers.AveragePooling2D(6), keras.layers.Flatten()],
        "kept": [keras.layers.GlobalAveragePooling2D(keepdims=True), keras.layers.Flatten()],
        "row": [keras.layers.GlobalAveragePooling2D()],
        "map": [keras.layers.Flatten()],
    }.items()
}
for name, model in models.items():
    with open(f"{name}.tflite", "wb") as file:
        file.write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    x = np.random.default_rng(0).standard_normal(model.inputs[0].shape).astype(np.float32)
    reader = tf.lite.Interpreter(f"{name}.tflite")
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], x)
    reader.invoke()
    lite = reader.get_tensor(reader.get_output_details()[0]["index"])
    assert np.allclose(lite, model(x), atol=1e-5)
    np.savez(name, x=x, y=lite, bias=model.layers[-1].bias.numpy())
PY
venv/bin/python make.py >log 2>&1 || { tail -5 log; exit 2; }
for name in pooled kept row map; do
  venv/bin/python -m tf2onnx.convert --tflite $name.tflite --output $name.onnx --opset 18 >>log 2>&1
done
if grep -iE "bias|drop" log; then exit 3; fi
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime

for name in ("pooled", "kept", "row", "map"):
    onnx.checker.check_model(f"{name}.onnx", full_check=True)
    kept = np.load(f"{name}.npz")
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: kept["x"]})[0]
    off = kept["y"] - found
    print(f"tf2onnx 1.17.0, {name}.tflite: LiteRT says {kept['y'].round(3)[0]}, the ONNX file {found.round(3)[0]}; lacking {off.round(3)[0]}, the bias is {kept['bias'].round(3)}")
    print("   ", [node.op_type for node in onnx.load(f"{name}.onnx").graph.node])
    assert np.allclose(off, kept["bias"] if name in ("pooled", "kept") else 0, atol=1e-5)
PY
