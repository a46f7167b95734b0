#!/usr/bin/env bash
# onnxscript 0.7.2 takes every constant of up to 1e-8 for zero, and of up to 1 ± 1e-5 for one. Its rewrite rules, which
# torch.onnx.export applies unless told optimize=False, match the 0 of x + 0 → x with an absolute tolerance of 1e-8: the
# 1e-8 of x / (norm + 1e-8) is gone from the file, and a norm of zero gives 0 / 0 where PyTorch gives 0, without a
# warning. 1e-7 stays. Way out: write the sum with a constant of one entry, torch.full((1,), 1e-8), which no rule
# matches. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torch\|^with\|^holds\|^changed"
import onnxruntime
import onnxscript
import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self, little):
        super().__init__()
        self.little = little

    def forward(self, x):
        return x / (x.abs().sum(-1, keepdim=True) + self.little)


x = torch.zeros(1, 3)
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
found = {}
for little in (1e-7, 1e-8, 1e-12, torch.full((1,), 1e-8)):
    for optimized in (True, False):
        module = Unit(little).eval()
        assert module(x).tolist() == [[0.0, 0.0, 0.0]]
        model = torch.onnx.export(module, (x,), dynamo=True, optimize=optimized, verbose=False).model_proto
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (made,) = session.run(None, {"x": x.numpy()})
        name = "a constant of one entry" if isinstance(little, torch.Tensor) else f"{little:g}"
        found[name, optimized] = bool((made == 0).all())
        print(f"with {name}, {'optimized' if optimized else 'as exported'}: torch [[0, 0, 0]], the file {made.tolist()}", flush=True)
wrong = {key for key, right in found.items() if not right}
holds = wrong == {("1e-08", True), ("1e-12", True)}
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
