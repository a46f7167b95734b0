#!/usr/bin/env bash
# torch.onnx (torch 2.13.0, onnxscript 0.7.2, dynamo=True) drops divisor_override of avg_pool2d without a warning: the
# file averages over the window. divisor_override=1, by which sums over windows are written (blur kernels, counts of
# neighbours, integral features), comes out 9 times too small for a 3x3 window; the graph is one AveragePool, which has no
# such attribute. Way out: avg_pool2d(x, k) * (k * k / divisor). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import onnxruntime
import onnxscript
import torch
from torch import nn

module, x = nn.AvgPool2d(3, divisor_override=1).eval(), torch.ones(1, 1, 3, 3)
model = torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
got, want = float(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].item()), float(module(x))
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, [node.op_type for node in model.graph.node])
print(f"a sum of nine ones: torch {want}, the file {got}")
raise SystemExit((want, got) != (9.0, 1.0))
PY
