#!/usr/bin/env bash
# torch.onnx 2.13.0 writes torch.istft as a file that onnxruntime 1.31.1 and onnx 1.23.2's own full check refuse: the overlap
# and add becomes a ScatterND whose indices are int32, where ONNX has int64 alone. The export itself ends without a
# complaint. torch.stft of the same window goes through and is right. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torch\|^there\|^holds\|^changed"
import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

WINDOW = torch.hann_window(64)


class There(nn.Module):
    def forward(self, x):
        return torch.view_as_real(torch.stft(x, 64, 16, window=WINDOW, return_complex=True))


class AndBack(nn.Module):
    def forward(self, x):
        return torch.istft(torch.stft(x, 64, 16, window=WINDOW, return_complex=True), 64, 16, window=WINDOW)


print("torch", torch.__version__, "onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
sound, found = torch.randn(1, 512), {}
for module in (There(), AndBack()):
    name = "there" if isinstance(module, There) else "there and back"
    model = torch.onnx.export(module, (sound,), dynamo=True, verbose=False).model_proto
    said = []
    try:
        onnx.checker.check_model(model, full_check=True)
        said.append("the checker passes it")
    except Exception as error:
        said.append(f"the checker: {' '.join(str(error).split())[:110]}")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        off = np.abs(session.run(None, {"x": sound.numpy()})[0] - module(sound).numpy()).max()
        said.append(f"off by {off:.0e} at most")
    except Exception as error:
        said.append(f"onnxruntime: {' '.join(str(error).split())}")
    print(f"{name}: {'; '.join(said)}", flush=True)
    found[name] = said
holds = "off by" in found["there"][1] and "ScatterND" in found["there and back"][1]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
