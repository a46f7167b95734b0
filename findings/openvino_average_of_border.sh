#!/usr/bin/env bash
# OpenVINO 2026.4.1 divides by too much in an average pool that counts its border and rounds its size up: a window that
# reaches beyond the border is divided by the whole kernel, where PyTorch, onnxruntime and onnx's reference count only
# entries of the padded image. nn.AvgPool2d(3, 2, 1, ceil_mode=True) counts the border by default; the last row and column
# come out at 2/3 of what they are, the corner at 4/9. From PyTorch directly as from ONNX, in every opset, without a warning.
# Way out: pad first (nn.ZeroPad2d), then pool without. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^openvino\|^counts\|^holds\|^changed"
import numpy as np
import onnxruntime
import openvino
import torch
from torch import nn

x = torch.ones(1, 1, 6, 6)
core, flat = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
print("openvino", openvino.__version__, "torch", torch.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
holds = True
for counts in (True, False):
    pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=counts).eval()
    data = torch.onnx.export(pool, (x,), dynamo=True, verbose=False).model_proto.SerializeToString()
    found = {
        "onnxruntime": onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})[0],
        "OpenVINO, ONNX": core.compile_model(core.read_model(data, b""), "CPU", flat)(x.numpy())[0],
        "OpenVINO, torch": core.compile_model(openvino.convert_model(torch.export.export(pool, (x,))), "CPU", flat)(x.numpy())[0],
    }
    wanted = pool(x).numpy()
    for name, values in found.items():
        share = values[0, 0, -1, -1] / wanted[0, 0, -1, -1]
        right = bool(np.allclose(values, wanted, atol=1e-6))
        print(f"counts the border: {counts}, {name}: {'right' if right else f'wrong, the corner is {share:.3f} of it'}", flush=True)
        holds &= right == (not counts or name == "onnxruntime")
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
