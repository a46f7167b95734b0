#!/usr/bin/env bash
# Keras 3.15.1: quantize("int8") of an EinsumDense whose kernel has no axis of its own in the result, as a layer of scores has it ("btd,d->bt": one number a
# token, attention pooling), gives a result of another shape: (batch, batch, steps) in place of (batch, steps). The scale of inputs is brought to the wrong axes, and what
# is divided by it is stretched. No error when quantizing or computing; what follows by means, sums or a softmax of the last axis goes on with numbers of other samples.
# A batch of one hides it, since all but a leading axis of 1 is right there. "btd,cd->bt" over two axes is the same. Equations whose kernel has an axis
# in the result ("btd,de->bte"), and "int4" of the same layer, are right. Way out: "btd,de->bte" with one column and a Reshape. Seen with
# the torch backend, torch 2.13.0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 numpy==2.4.6
KERAS_BACKEND=torch CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PY'
import keras
import numpy as np

keras.utils.set_random_seed(0)
random = np.random.default_rng(0)


def off(equation, shape, output, mode, batch):
    """Shapes of the results before and after quantization, and how far they are apart."""
    x = random.standard_normal((batch, *shape)).astype(np.float32)
    entry = keras.Input(shape)
    model = keras.Model(entry, keras.layers.EinsumDense(equation, output)(entry))
    right = np.array(model(x).detach())
    model.quantize(mode)
    found = np.array(model(x).detach())
    same = found.shape == right.shape
    return right.shape, found.shape, float(np.abs(found - right).max() / np.abs(right).max()) if same else None


for equation, shape, output, mode, batch, wrong in (
    ("btd,d->bt", (5, 8), (None,), "int8", 3, (3, 3, 5)), ("btd,d->bt", (5, 8), (None,), "int8", 1, (1, 1, 5)),
    ("btcd,cd->bt", (5, 4, 8), (None,), "int8", 3, (3, 3, 5)), ("btd,dt->bt", (5, 8), (5,), "int8", 3, (3, 3, 5)),
    ("btd,d->bt", (5, 8), (None,), "int4", 3, None), ("btd,de->bte", (5, 8), (None, 1), "int8", 3, None),
):
    before, after, far = off(equation, shape, output, mode, batch)
    print("Keras 3.15.1,", equation, mode, "batch of", batch, "gives", after, "for", before, "" if far is None else "off by %.3f" % far)
    assert after == (wrong or before) and (far is None or far < 0.15)
PY
