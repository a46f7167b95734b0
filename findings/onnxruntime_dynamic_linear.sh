#!/usr/bin/env bash
# onnxruntime 1.31.1's quantize_dynamic refuses a plain nn.Linear as torch.onnx 2.13.0 exports it: the exporter declares the
# shapes of weights beside them (value_info), the quantizer turns the weight around and leaves what was declared.
# "Inferred shape and existing shape differ". Without those declarations it works. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^as exported\|^without\|^holds\|^changed"
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).eval()
torch.onnx.export(net, (torch.randn(4, 16),), "exported.onnx", dynamo=True, external_data=False)
model = onnx.load("exported.onnx")
declared = {value.name for value in model.graph.value_info} & {tensor.name for tensor in model.graph.initializer}
del model.graph.value_info[:]
onnx.save(model, "bare.onnx")
said = {}
for name in ("exported", "bare"):
    try:
        quantize_dynamic(f"{name}.onnx", f"{name}8.onnx", weight_type=QuantType.QInt8)
        said[name] = "quantized"
    except Exception as error:
        said[name] = f"{type(error).__name__}: {str(error)[:90]}"
print("as exported, with", len(declared), "weights declared:", said["exported"], flush=True)
print("without declarations:", said["bare"], flush=True)
holds = "differ" in said["exported"] and said["bare"] == "quantized"
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
