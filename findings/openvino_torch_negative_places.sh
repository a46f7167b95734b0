#!/usr/bin/env bash
# OpenVINO 2026.4.1 reads another row where PyTorch code indexes with two tensors and one of them is negative: x[i, j] becomes a
# place in the flattened tensor, i · columns + j, to which a j of -1 gives the end of the row before. x[arange(batch),
# lengths - 1], the last token of a sequence, is such a call where a length is 0 (and -1 where it counts from the end);
# x[:, i, -1] with tensors, keypoints and beams are others. A single tensor of indices is right, and the same module by way of
# ONNX (GatherND) is too. From torch.export and from a trace alike, without a warning. Way out: j % x.shape[1].
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^openvino\|: numpy\|^holds\|^changed"
import numpy as np
import openvino
import torch
from torch import nn

core = openvino.Core()


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, i, j):
        return self.function(x, i, j)


def run(model, *inputs):
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([one.numpy() for one in inputs])[0]


x = torch.arange(12.0).reshape(3, 4)
i, j = torch.tensor([0, 1, 2]), torch.tensor([-1, 0, -2])
ways = {
    "x[i, j]": lambda x, i, j: x[i, j],
    "x[i, j % 4]": lambda x, i, j: x[i, j % 4],
    "x[:, j]": lambda x, i, j: x[:, j] + i[0],
}
print("openvino", openvino.__version__, "torch", torch.__version__, flush=True)
wrong = {}
for name, function in ways.items():
    module = Of(function).eval()
    wanted = function(x.numpy(), i.numpy(), j.numpy())
    assert np.array_equal(module(x, i, j).numpy(), wanted)
    data = torch.onnx.export(module, (x, i, j), dynamo=True, verbose=False).model_proto.SerializeToString()
    found = {
        "torch.export": run(openvino.convert_model(torch.export.export(module, (x, i, j))), x, i, j),
        "a trace": run(openvino.convert_model(module, example_input=(x, i, j)), x, i, j),
        "ONNX": run(core.read_model(data, b""), x, i, j),
    }
    said = ", ".join(f"from {way} {values.ravel()[:3].tolist()}" for way, values in found.items())
    print(f"{name}: numpy and torch {wanted.ravel()[:3].tolist()}, {said}", flush=True)
    wrong[name] = [way for way, values in found.items() if not np.array_equal(values, wanted)]
holds = wrong == {"x[i, j]": ["torch.export", "a trace"], "x[i, j % 4]": [], "x[:, j]": []}
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
