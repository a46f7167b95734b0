#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: com.microsoft's QMoE of 8 bits in blocks answers otherwise by where its weights come from. As initializers, which every
# exporter writes, they are packed for kernels that round the activations to 8 bits as well, and the result is 0.5 to 1 % of the largest output off the
# sum in float64; the same numbers handed in as inputs give it to 1e-6, and so do 4 bits, and 8 bits with one scale a row. The attribute
# accuracy_level, by which MatMulNBits chooses (1 keeps float32 there, for 8 bits too), changes nothing at 8 bits. It is meant
# (microsoft/onnxruntime#32644), and the file says nothing of it: more bits are less exact. Way out: the environment variable
# ORT_QMOE_CPU_QNBIT_GEMM=fp32. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import os

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

EXPERTS, HIDDEN, INNER, TOKENS, TAKEN = 4, 64, 128, 8, 2
random = np.random.default_rng(0)


def quantized(weight, bits, block):
    """Integers as QMoE stores them, scales, and the weight these mean."""
    half, groups = 2 ** (bits - 1), weight.reshape(*weight.shape[:2], -1, block or weight.shape[2])
    scales = (np.abs(groups).max(-1, keepdims=True) / (half - 1)).astype(np.float32)
    integers = np.rint(groups / scales)
    stored = (integers + half).astype(np.uint8).reshape(weight.shape)
    stored = stored if bits == 8 else stored[..., ::2] | stored[..., 1::2] << 4
    return stored, scales[..., 0] if block else scales[..., 0, 0], (integers * scales.astype(float)).reshape(weight.shape)


def off(bits, block, constant, **words):
    """How far QMoE is from the sum over the chosen experts in float64, of the largest output."""
    values, meant = {}, []
    for name, shape in (("1", (EXPERTS, INNER, HIDDEN)), ("2", (EXPERTS, HIDDEN, INNER))):
        values["w" + name], values["s" + name], weight = quantized(random.standard_normal(shape) / 8, bits, block)
        meant.append(weight)
    feed = {"x": random.standard_normal((TOKENS, HIDDEN)).astype(np.float32), "r": random.standard_normal((TOKENS, EXPERTS)).astype(np.float32)}
    words |= {"block_size": block} if block else {}
    node = helper.make_node("QMoE", ["x", "r", "w1", "s1", "", "w2", "s2", ""], ["y"], domain="com.microsoft", k=TAKEN, activation_type="relu",
                            expert_weight_bits=bits, normalize_routing_weights=1, **words)
    given = feed if constant else feed | values
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in given.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [TOKENS, HIDDEN])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in values.items() if n not in given])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    found = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)[0]
    right = np.zeros((TOKENS, HIDDEN))
    for token, (x, scores) in enumerate(zip(feed["x"].astype(float), feed["r"].astype(float))):
        best = np.argsort(-scores)[:TAKEN]
        shares = np.exp(scores[best]) / np.exp(scores[best]).sum()
        right[token] = sum(share * (meant[1][e] @ np.maximum(meant[0][e] @ x, 0)) for e, share in zip(best, shares))
    return float(np.abs(found - right).max() / np.abs(right).max())


for bits, block, constant, words, is_right in (
    (8, 32, True, {}, False), (8, 64, True, {}, False), (8, 32, True, {"accuracy_level": 1}, False),
    (8, 32, False, {}, True), (8, 0, True, {}, True), (4, 32, True, {}, True), (4, 64, True, {}, True),
):
    far = off(bits, block, constant, **words)
    print("onnxruntime 1.32.0, QMoE,", bits, "bits, blocks of", block, words, "constant" if constant else "inputs", "off by %.1e" % far, flush=True)
    assert far < 1e-5 if is_right else 0.002 < far < 0.05
os.environ["ORT_QMOE_CPU_QNBIT_GEMM"] = "fp32"
far = off(8, 32, True)
print("onnxruntime 1.32.0, QMoE, 8 bits, blocks of 32, ORT_QMOE_CPU_QNBIT_GEMM=fp32, off by %.1e" % far)
assert far < 1e-5
PY
