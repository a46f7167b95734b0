#!/usr/bin/env bash
# torch.onnx (torch 2.13.0, onnxscript 0.7.2, dynamo=True) exports torch.div(integers, n, rounding_mode="floor" or
# "trunc") as Cast to float32, Div, Floor, Cast back: wrong for integers above 2^24, while x // n of the same tensor stays
# an integer division and is right. Whoever decodes flat indices (top-k over anchors and classes, hashed ids, times in
# ns) by torch.div gets neighbours, without a warning, and small test inputs do not show it. Seen for 10^9 + 7 and 2:
# 500000000 instead of 500000003. Way out: write //, or (x - torch.fmod(x, n)) // n for trunc. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import onnxruntime
import onnxscript
import torch
from torch import nn


class Divided(nn.Module):
    def __init__(self, divide):
        super().__init__()
        self.divide = divide

    def forward(self, x):
        return self.divide(x)


WAYS = {"floor": lambda x: torch.div(x, 2, rounding_mode="floor"),
        "trunc": lambda x: torch.div(x, 2, rounding_mode="trunc"), "//": lambda x: x // 2}
x = torch.tensor([2**25 + 3, 10**9 + 7, -(10**9 + 7)])
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__)
right = {}
for name, divide in WAYS.items():
    model = torch.onnx.export(Divided(divide), (x,), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got, want = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].tolist(), divide(x).tolist()
    right[name] = got == want
    print(f"{name:5}", [node.op_type for node in model.graph.node], "gives", got, "torch", want)
raise SystemExit(right != {"floor": False, "trunc": False, "//": True})
PY
