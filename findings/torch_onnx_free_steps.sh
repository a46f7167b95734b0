#!/usr/bin/env bash
# torch.onnx 2.13.0: whether the steps of an exported nn.GRU are free depends on what the process exported before. Asked
# for free steps in a fresh process, the file takes any number. After another nn.GRU, with other weights, went through
# torch.export or through torch.onnx with fixed steps, the same call on a new model writes a file whose input is declared
# with the example's 7, and onnxruntime 1.31.1 refuses 12. No warning names it; torch.export itself refuses such a request
# ("marked t as dynamic but your code specialized it"). An nn.RNN is fixed in every case, an nn.LSTM as the GRU. Way out:
# one export a process, and compare the declared inputs with what was asked. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
cat > "$folder/steps.py" <<'PY'
import sys
import warnings

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.export import Dim


class Sequence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(8, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


kind, before = getattr(nn, sys.argv[1]), sys.argv[2]
example, longer = torch.randn(2, 7, 8), torch.randn(2, 12, 8)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if before == "torch.export":
        torch.export.export(Sequence(kind).eval(), (example,))
    elif before == "torch.onnx":
        torch.onnx.export(Sequence(kind).eval(), (example,), dynamo=True, verbose=False)
model = Sequence(kind).eval()
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    free = ({0: Dim("batch"), 1: Dim("steps")},)
    file = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=free, verbose=False).model_proto
told = sum("steps" in str(one.message) or "dynamic" in str(one.message) for one in warned)
session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
try:
    off = np.abs(session.run(None, {"x": longer.numpy()})[0] - model(longer).detach().numpy()).max()
    said = "12 steps run right" if off < 1e-5 else f"12 steps off by {off}"
except Exception:
    said = "12 steps refused"
print(f"nn.{sys.argv[1]:4} after {before:12}: {session.get_inputs()[0].shape}, {told} warnings of it, {said}")
PY
for case in "GRU nothing" "GRU torch.export" "GRU torch.onnx" "LSTM nothing" "LSTM torch.export" "RNN nothing"; do
  # shellcheck disable=SC2086
  "$folder/venv/bin/python" "$folder/steps.py" $case 2>/dev/null | grep "^nn\." | tee -a "$folder/seen"
done
cat > "$folder/wanted" <<'SEEN'
nn.GRU  after nothing     : ['batch', 'steps', 8], 0 warnings of it, 12 steps run right
nn.GRU  after torch.export: ['batch', 7, 8], 0 warnings of it, 12 steps refused
nn.GRU  after torch.onnx  : ['batch', 7, 8], 0 warnings of it, 12 steps refused
nn.LSTM after nothing     : ['batch', 'steps', 8], 0 warnings of it, 12 steps run right
nn.LSTM after torch.export: ['batch', 7, 8], 0 warnings of it, 12 steps refused
nn.RNN  after nothing     : ['batch', 7, 8], 0 warnings of it, 12 steps refused
SEEN
diff "$folder/wanted" "$folder/seen" && echo holds
