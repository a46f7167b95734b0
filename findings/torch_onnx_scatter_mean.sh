#!/usr/bin/env bash
# torch.onnx 2.13.0 (onnxscript 0.7.2) writes scatter_reduce(..., "mean") as a plain ScatterElements with reduction "none":
# of all that goes to one place the file keeps the last, where PyTorch takes the mean. Means over neighbours in a graph
# network and merged tokens come out as one neighbour and one token, without a warning, with and without include_self.
# "sum", "amax", "amin" and "prod" are right. ONNX has no reduction "mean" (onnx/onnx#5100), and the exporter before
# dynamo refused it by name. Way out: divide two scatter_add by each other. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torch\|^[a-z]* *, self\|^holds\|^changed"
import numpy as np
import onnx
import onnxruntime
import onnxscript
import torch
from torch import nn

PLACES = torch.tensor([0, 0, 0, 1])  # three values go to the first place, one to the second, none to the third


class Reduced(nn.Module):
    def __init__(self, how, with_self):
        super().__init__()
        self.how, self.with_self = how, with_self

    def forward(self, x):
        return torch.zeros(3).scatter_reduce(0, PLACES, x, self.how, include_self=self.with_self)


def of(how, values):
    return {"mean": np.mean, "sum": np.sum, "amax": np.max, "amin": np.min, "prod": np.prod}[how](values)


x = torch.tensor([1.0, 2, 6, 8])
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
wrong = []
for how in ("mean", "sum", "amax", "amin", "prod"):
    for with_self in (True, False):
        start = [0.0] if with_self else []
        wanted = np.float32([of(how, start + [1, 2, 6]), of(how, start + [8]), 0])  # in numpy alone
        module = Reduced(how, with_self).eval()
        assert np.allclose(module(x).numpy(), wanted)
        model = torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x.numpy()})[0]
        if not np.allclose(found, wanted, atol=1e-6):
            wrong.append((how, with_self))
        print(f"{how:4}, self {'counts' if with_self else 'does not count'}: torch {wanted.tolist()}, the file {found.tolist()}", flush=True)
holds = wrong == [("mean", True), ("mean", False)]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
