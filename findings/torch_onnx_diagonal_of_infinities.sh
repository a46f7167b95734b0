#!/usr/bin/env bash
# torch.onnx 2.13.0 (onnxscript 0.7.2) takes torch.diagonal by a product with a matrix of ones and zeros and a sum, and 0 · inf is
# not a number: where a matrix has an infinite entry beside its diagonal, the file answers NaN for a diagonal that is
# finite. Scores that a mask of -inf went over and log-probabilities of what cannot be are such matrices; torch.trace goes the
# same way, einsum("bii->bi") is right. onnx's full check passes the files and nothing warns. Way out: x.flatten(-2)[..., ::n + 1]
# of n × n. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torch\|: numpy\|^holds\|^changed"
import numpy as np
import onnx
import onnxruntime
import onnxscript
import torch
from torch import nn


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


masked = torch.arange(9.0).reshape(1, 3, 3) + torch.full((3, 3), float("-inf")).triu(1)
diagonal = np.diagonal(masked.numpy(), 0, 1, 2)
ways = {
    "diagonal": (lambda x: torch.diagonal(x, 0, 1, 2), diagonal),
    "trace": (lambda x: torch.trace(x[0]), diagonal.sum()),
    "einsum": (lambda x: torch.einsum("bii->bi", x), diagonal),
    "strides": (lambda x: x.flatten(-2)[..., ::4], diagonal),
}
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
spoiled = {}
for name, (function, wanted) in ways.items():
    module = Of(function).eval()
    assert np.allclose(module(masked).numpy(), wanted)
    model = torch.onnx.export(module, (masked,), dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": masked.numpy()})[0]
    print(f"{name}: numpy and torch {wanted.tolist()}, the file {found.tolist()}", flush=True)
    spoiled[name] = bool(np.isnan(found).any())
    assert spoiled[name] or np.allclose(found, wanted)
holds = spoiled == {"diagonal": True, "trace": True, "einsum": False, "strides": False}
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
