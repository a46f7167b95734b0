#!/usr/bin/env bash
# A query that may attend to nothing gets zeros from torch 2.13.0's scaled_dot_product_attention, and the mean of all
# values from the ONNX file that torch.onnx (onnxscript 0.7.2, dynamo=True, default opset) makes of it with a boolean
# mask: the exporter fills in the lowest finite float instead of -inf, so a masked row is softmax's uniform one. Padding
# rows of a batch then carry every other token's values, and what pools over them (mean, max, a classification token of
# an empty sentence) differs; tests without an empty row agree to 1e-6. Way out: multiply the result by
# mask.any(-1, keepdim=True). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime
import onnxscript
import torch
from torch import nn


class Attention(nn.Module):
    def forward(self, x, mask):
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


x = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
mask[..., 3, :] = False  # the last query is padding
module = Attention().eval()
model = torch.onnx.export(module, (x, mask), dynamo=True, verbose=False).model_proto
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
names = [value.name for value in session.get_inputs()]
got = session.run(None, dict(zip(names, (x.numpy(), mask.numpy()))))[0][0, 0]
want = module(x, mask).numpy()[0, 0]
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__,
      "opset", model.opset_import[0].version)
print("rows that attend to something differ by", float(np.abs(got[:3] - want[:3]).max()))
print("the row that does not: torch", want[3].round(2).tolist(), "the file", got[3].round(2).tolist())
mean = x.numpy()[0, 0].mean(0)
holds = np.allclose(got[:3], want[:3], atol=1e-5) and not want[3].any() and np.allclose(got[3], mean, atol=1e-5)
raise SystemExit(not holds)
PY
