#!/usr/bin/env bash
# Two runtimes give other scores than the standard says at the fourth output of ONNX's Attention (opset 23 and 24), in silence.
# onnxruntime 1.32.0: with qk_matmul_output_mode=2, the scores with their mask, what is_causal or a mask of booleans hides is the lowest float, -3.4e38,
# where the standard has these positions contribute -inf: `isinf` finds none of them, and a scale behind takes them to finite numbers. A mask
# of floats with -inf gives -inf. The first output is right. onnx 1.23.2's reference evaluator: with mode 0, "the output of qk matmul", and a softcap it gives the
# scores behind the softcap; onnxruntime gives the product. Way out: floats for masks, mode 1 for what the softcap made. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)
q, k, v = (random.standard_normal((1, 2, 5, 8)).astype(np.float32) for _ in range(3))
seen = np.tril(np.ones((5, 5), bool))
product = q @ k.swapaxes(-1, -2) / np.sqrt(8).astype(np.float32)
masked = np.where(seen, product, -np.inf)


def both(opset, mask=None, **words):
    """The fourth output by onnxruntime and by the reference evaluator, and whether their first outputs agree."""
    names = ["q", "k", "v"] + ([] if mask is None else ["mask"])
    sizes = {"q": (5, 8), "k": (5, 8), "v": (5, 8), "y": (5, 8), "scores": (5, 5)}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, *size]) for name, size in sizes.items()]
    node = helper.make_node("Attention", names, ["y", "", "", "scores"], **words)
    graph = helper.make_graph([node], "g", ends[:3], ends[3:], [] if mask is None else [numpy_helper.from_array(mask, "mask")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    feeds = {"q": q, "k": k, "v": v}
    here = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    there = ReferenceEvaluator(model).run(None, feeds)
    return here[1], there[1], np.allclose(here[0], there[0], atol=1e-5)


def right(found, wanted):
    return bool(np.allclose(found, wanted, atol=1e-5))


holds = True
for opset in (23, 24):
    for name, mask, words in (("is_causal", None, {"is_causal": 1}), ("booleans", seen, {}), ("floats", np.where(seen, 0, -np.inf).astype(np.float32), {})):
        here, there, agree = both(opset, mask, qk_matmul_output_mode=2, **words)
        print(f"opset {opset}, mode 2, {name}: onnxruntime hides by {here[0, 0, 0, 1]}, the reference by {there[0, 0, 0, 1]}", flush=True)
        holds &= agree and right(there, masked) and right(here, masked) == (name == "floats")
        holds &= name == "floats" or (not np.isinf(here).any() and here[0, 0, 0, 1] < -3e38 and right(here[:, :, seen], product[:, :, seen]))
    for softcap, mode in ((1.5, 0), (1.5, 1), (0.0, 0)):
        here, there, agree = both(opset, qk_matmul_output_mode=mode, softcap=softcap)
        capped = softcap * np.tanh(product / softcap) if softcap else product
        wanted = capped if mode == 1 else product
        print(f"opset {opset}, softcap {softcap}, mode {mode}: onnxruntime right: {right(here, wanted)}, the reference right: {right(there, wanted)}", flush=True)
        holds &= agree and right(here, wanted) and right(there, capped) and right(there, wanted) == (mode == 1 or not softcap)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
