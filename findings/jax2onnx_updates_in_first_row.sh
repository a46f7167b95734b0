#!/usr/bin/env bash
# jax2onnx 0.17.1 writes what belongs to the rows of a batch into the first ones. jax.vmap of lax.dynamic_update_slice, a place of its own for each sample
# as ring buffers, masks by length and caches of decoders have it, becomes a scatter whose rows are counted along the update, not along the batch: an update of
# one entry goes to row 0 for every sample, one of two entries to rows 0 and 1, and the rest of the batch stays as it was. No error, no warning. Where
# rows are vectors the converter refuses the scatter by name, as it does vmap of x.at[j].set.
# x.at[arange(n), j].set(u) is right (the way out), and so is the update of one array without vmap. Exit 0 while this holds.
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


update = jax.vmap(lambda row, new, place: lax.dynamic_update_slice(row, new, (place,)))
rows, places, holds = np.zeros((3, 6), np.float32), np.array([0, 3, 1], np.int32), True
for wide in (1, 2):
    new = np.arange(1, 1 + 3 * wide, dtype=np.float32).reshape(3, wide)
    wanted, given = both(update, rows, new, places)
    print(f"updates of {wide}: JAX {wanted.astype(int).tolist()}, the file {given.astype(int).tolist()}", flush=True)
    holds &= not given[wide:].any() and wanted.any(1).all()
right = both(lambda rows, new, place: jnp.asarray(rows).at[jnp.arange(3), place].set(new), rows, np.array([1, 2, 3], np.float32), places)
print(f"x.at[arange, j].set is {'right' if np.array_equal(*right) else 'wrong'}", flush=True)
holds = bool(holds and np.array_equal(*right))
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
