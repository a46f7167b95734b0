#!/usr/bin/env bash
# jax2onnx 0.17.1 gives four functions of JAX an ONNX operator that means something else at the edges, without an error:
# - jax.image.resize(…, "nearest") by half the size (and by 3/2) takes pixels 0, 2, 4 where JAX takes 1, 3, 5 (half pixels, a tie goes up),
# - lax.round rounds halves away from zero (its default; 0.5 becomes 1), the file to the even number (0),
# - jax.nn.one_hot of a class that is none (-1, as padding and "ignore" are marked) is all zeros, in the file it is the last class (-2 the one before),
# - lax.dynamic_slice moves a window that reaches beyond the end back until it fits, as its documentation says; the file cuts it off, and its size is
#   another one than declared. A start of -1, which JAX counts from the end, is the same.
# Enlarging by a whole number, jnp.round, classes of 0 to n - 1 and windows that fit are right; dynamic_update_slice is moved back rightly.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax2onnx==0.17.1 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python -W ignore - 2>log <<'PY'
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from jax import lax
from jax2onnx import to_onnx

print("jax2onnx", version("jax2onnx"), "jax", jax.__version__, "onnxruntime", onnxruntime.__version__, flush=True)


def both(function, *given):
    """What JAX computes and what the file of it computes."""
    given = [np.asarray(each) for each in given]
    model = to_onnx(function, [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in given])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return np.asarray(function(*given)), session.run(None, dict(zip(names, given, strict=True)))[0]


row = np.arange(6, dtype=np.float32)
halves, classes = np.array([0.5, 1.5, -0.5, 2.5, 0.3], np.float32), np.array([0, 4, -1, -2], np.int32)
window = lambda x, start: lax.dynamic_slice(x, (start,), (3,))
wrong = {
    "resize 6 to 3": both(lambda x: jax.image.resize(x, (3,), "nearest"), row),
    "resize 6 to 9": both(lambda x: jax.image.resize(x, (9,), "nearest"), row),
    "lax.round": both(lax.round, halves),
    "one_hot of -1": both(lambda x: jnp.argmax(jax.nn.one_hot(x, 5), 1) * (jax.nn.one_hot(x, 5).sum(1) > 0), classes),
    "a window from 5 of 6": both(window, row, np.int32(5)),
    "a window from -1": both(window, row, np.int32(-1)),
}
right = {
    "resize 6 to 12": both(lambda x: jax.image.resize(x, (12,), "nearest"), row),
    "jnp.round": both(jnp.round, halves),
    "one_hot": both(lambda x: jax.nn.one_hot(x, 5), np.array([0, 4, 2], np.int32)),
    "a window that fits": both(window, row, np.int32(3)),
    "an update from 5 of 6": both(lambda x, start: lax.dynamic_update_slice(x, jnp.full(3, 9.0), (start,)), row, np.int32(5)),
}
for name, (jax_says, file_says) in (wrong | right).items():
    print(f"{name}: JAX {jax_says.tolist() if jax_says.ndim == 1 else '…'}, the file {file_says.tolist() if file_says.ndim == 1 else '…'}", flush=True)
holds = not any(np.array_equal(*pair) for pair in wrong.values()) and all(np.array_equal(*pair) for pair in right.values())
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
