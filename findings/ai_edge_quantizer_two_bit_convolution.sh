#!/usr/bin/env bash
# ai-edge-quantizer 0.10.0's recipe of 2 bits (dynamic_wi2c_afp32) quantizes convolutions too, which LiteRT 2.3.0 cannot compute: its kernels for
# CONV_2D take the packed weights, four in a byte, for one in a byte. The file is written, loads without a message, and gives NaN and numbers
# like 1e30, with XNNPACK and without it. A fully connected layer of the same weights is as close as 2 bits are, so that is where the recipe
# belongs: recipes by operator leave convolutions at 4 or 8 bits, which are right (dynamic_wi4c_afp32 below). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 tensorflow==2.21.0
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - 2>/dev/null <<'PY' | grep "^ai-edge\|^holds\|^changed"
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import quantizer, recipe

random = np.random.default_rng(0)
weight = random.choice(np.float32([-1, 0, 1]), (64, 32))  # three values and one scale: 2 bits hold them exactly


def file(layer, shape, weight):
    given = tf.keras.Input(shape, batch_size=1)
    net = tf.keras.Model(given, layer(given))
    layer.set_weights([weight])
    x = random.standard_normal((1, *shape)).astype(np.float32)
    with open(f"{layer.name}.tflite", "wb") as opened:
        opened.write(tf.lite.TFLiteConverter.from_keras_model(net).convert())
    return f"{layer.name}.tflite", x, net(x).numpy()


def error(name, x, right, chosen, resolver):
    """The largest error against the largest output; inf where something is no number."""
    content = quantizer.Quantizer(name, getattr(recipe, chosen)()).quantize().quantized_model
    session = Interpreter(model_content=bytes(content), experimental_op_resolver_type=resolver)
    session.allocate_tensors()
    session.set_tensor(session.get_input_details()[0]["index"], x)
    session.invoke()
    found = session.get_tensor(session.get_output_details()[0]["index"])
    return float(np.nan_to_num(np.abs(found - right), nan=np.inf).max() / np.abs(right).max())


dense = file(tf.keras.layers.Dense(32, use_bias=False, name="dense"), (64,), weight)
convolution = file(tf.keras.layers.Conv2D(32, 1, use_bias=False, name="convolution"), (6, 6, 64), weight[None, None])
resolvers = {"XNNPACK": OpResolverType.AUTO, "plain kernels": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
holds = True
for layer, made in (("fully connected", dense), ("convolution", convolution)):
    for chosen in ("dynamic_wi2c_afp32", "dynamic_wi4c_afp32"):
        for runtime, resolver in resolvers.items():
            found = error(*made, chosen, resolver)
            print(f"ai-edge-quantizer 0.10.0, {chosen}, {layer}, {runtime}: off by {found:.2g} of the largest", flush=True)
            holds &= found > 1 if layer == "convolution" and "wi2" in chosen else found < 0.05
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
