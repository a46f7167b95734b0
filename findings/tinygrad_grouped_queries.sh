#!/usr/bin/env bash
# tinygrad 0.14.0's ONNX runner gives grouped queries the keys and values of another group. Where ONNX's Attention (opset 23 and 24) has fewer
# heads of keys than of queries, consecutive query heads share one (0 0 1 1), as torch, onnx's reference and onnxruntime have it;
# tinygrad takes them in turn (0 1 0 1), which is what onnx's first tests of that operator said (onnx/onnx#7274). Llama, Qwen and
# Gemma as torch.onnx writes them in opset 23 are such files. No error. As many heads of keys as of queries, and a single one, are
# right. Way out: repeat keys and values in front of the operator. Run by tinygrad's own interpreter, which needs no compiler.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tinygrad==0.14.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
DEV=PYTHON venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tinygrad.nn.onnx import OnnxRunner

random = np.random.default_rng(0)


def attention(q, k, v):
    """Definition, as many heads everywhere."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v


for opset in (23, 24):
    for heads in (4, 2, 1):
        q, k, v = (random.standard_normal((1, n, 3, 8)).astype(np.float32) for n in (4, heads, heads))
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in zip("qkvy", (q, k, v, q))]
        graph = helper.make_graph([helper.make_node("Attention", list("qkv"), ["y"])], "g", values[:3], values[3:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=opset - 13)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, "net.onnx")
        feeds = {"q": q, "k": k, "v": v}
        side_by_side = attention(q, k.repeat(4 // heads, 1), v.repeat(4 // heads, 1))
        in_turn = attention(q, np.tile(k, (1, 4 // heads, 1, 1)), np.tile(v, (1, 4 // heads, 1, 1)))
        session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
        for right in (session.run(None, feeds)[0], ReferenceEvaluator(model).run(None, feeds)[0]):
            assert np.allclose(right, side_by_side, atol=1e-5)
        found = OnnxRunner("net.onnx")(feeds)["y"].numpy()
        off = float(np.abs(found - side_by_side).max())
        print("tinygrad 0.14.0, opset", opset, "4 heads of queries and", heads, "of keys: off by", round(off, 4))
        assert np.allclose(found, in_turn, atol=1e-5) and (off > 0.1) == (heads == 2)
PY
