#!/usr/bin/env bash
# torch.onnx 2.13.0 (onnxscript 0.7.2) spells F.logsigmoid as Log(Sigmoid(x)) and torch.logaddexp as Log(Exp(a) + Exp(b)), which
# PyTorch computes without leaving the range of a float. The file gives -inf for the log-sigmoid of anything below about
# -18 in onnxruntime 1.31.1 (whose Sigmoid is 0 there) and below -104 in onnx's reference evaluator, and inf for
# logaddexp above 88: forget gates of xLSTM and gated linear attention (sums of logsigmoid), and losses inside of a model,
# become -inf, and not a number one subtraction later. nn.Softplus and torch.logsumexp stay right.
# Way out: -F.softplus(-x), and the maximum + log1p(exp(-|a - b|)). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torch\|: exactly\|^holds\|^changed"
import numpy as np
import onnxruntime
import onnxscript
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional as F


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


numbers = np.array([-200.0, -60, -20, -1, 50, 200])
exactly = {  # in float64 and spelled out, which numpy.logaddexp does as well
    "logsigmoid": np.minimum(numbers, 0) - np.log1p(np.exp(-abs(numbers))),
    "logaddexp": np.maximum(numbers, numbers / 2) + np.log1p(np.exp(-abs(numbers / 2))),
    "softplus": np.maximum(numbers, 0) + np.log1p(np.exp(-abs(numbers))),
    "logsumexp": np.maximum(numbers, numbers / 2) + np.log1p(np.exp(-abs(numbers / 2))),
}
functions = {
    "logsigmoid": F.logsigmoid,
    "logaddexp": lambda x: torch.logaddexp(x, x / 2),
    "softplus": F.softplus,
    "logsumexp": lambda x: torch.logsumexp(torch.stack([x, x / 2]), 0),
}
x = torch.tensor(numbers, dtype=torch.float32)
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
infinite = {}
for name, function in functions.items():
    module = Of(function).eval()
    assert np.allclose(module(x).numpy(), exactly[name], rtol=1e-5, atol=1e-7)
    model = torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy()})[0]
    reference = ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0]
    infinite[name] = [numbers[~np.isfinite(one)].tolist() for one in (found, reference)]
    print(f"{name}: exactly {exactly[name].round(2).tolist()}, onnxruntime {found.round(2).tolist()}, reference {reference.round(2).tolist()}", flush=True)
holds = infinite == {
    "logsigmoid": [[-200.0, -60.0, -20.0], [-200.0]],
    "logaddexp": [[200.0], [200.0]],
    "softplus": [[], []],
    "logsumexp": [[], []],
}
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
