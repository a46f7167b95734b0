#!/usr/bin/env bash
# jax2onnx 0.17.1 takes a length of 1 for the one of jax.nn.dot_product_attention's two lengths that is left out, where JAX takes all. With
# key_value_seq_lengths alone, which is how padded batches are masked, all queries but the first come out as zeros; with query_seq_lengths alone every query
# sees the first key and no other. No error, no warning. Both lengths together are right (the way out: give the full number for the other one),
# and so are none, and the same as a `mask`. Exit 0 while this holds.
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


def attention(**more):
    return lambda q, k, v, *n: jax.nn.dot_product_attention(q, k, v, **{name: n[0] for name in more["names"]})


numbers = np.random.default_rng(0)
q, k, v = (numbers.normal(size=(2, 5, 1, 8)).astype(np.float32) for _ in range(3))
lengths = np.array([2, 4], np.int32)
keys, queries = "key_value_seq_lengths", "query_seq_lengths"
off = {}
for names in ((), (keys,), (queries,), (keys, queries)):
    jax_says, file_says = both(attention(names=names), q, k, v, *([lengths] if names else []))
    off[names] = float(np.abs(jax_says - file_says).max())
    empty = [int((np.abs(sample).max((1, 2)) == 0).sum()) for sample in file_says]
    print(f"{' and '.join(names) or 'no lengths'}: off by {off[names]:.2g}, queries of zeros in the file {empty}", flush=True)
stated = (jnp.arange(5) < lengths[:, None])[:, None, None]
masked = both(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(stated)), q, k, v)
counted = both(attention(names=(keys,)), q, k, v, lengths)[0]
off["mask"] = float(np.abs(masked[1] - counted).max())
print(f"the same as a mask: off by {off['mask']:.2g}")
first = both(attention(names=(queries,)), q, k, v, lengths)[1]
sees_one = all(np.allclose(first[i, :length], v[i, 0], atol=1e-5) for i, length in enumerate(lengths))
only_first = bool((np.abs(both(attention(names=(keys,)), q, k, v, lengths)[1][:, 1:]) == 0).all())
print(f"with query lengths alone each query gets the first value: {sees_one}; with key lengths alone queries behind the first are zeros: {only_first}")
holds = off[(keys,)] > 0.3 and off[(queries,)] > 0.3 and sees_one and only_first and max(off[()], off[keys, queries], off["mask"]) < 1e-4
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
