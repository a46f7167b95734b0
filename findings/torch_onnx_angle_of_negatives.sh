#!/usr/bin/env bash
# torch.onnx 2.13.0 (onnxscript 0.7.2) makes -π of torch.atan2(0, x) with a negative x, where PyTorch, numpy and C say π (-π is
# that of -0.0): the exporter asks whether y > 0 where it should ask whether y < 0. torch.angle of a complex number goes the
# same way. Every negative real number turns by 2π: the mean and the highest frequency of each spectrum of a real signal
# have an imaginary part of exactly 0, and so has a pose that looks straight along -x. What unwraps, averages or
# compares angles behind it is off by 2π, without a warning. Way out: torch.where(y == 0, torch.where(x < 0, π, 0.0),
# torch.atan2(y, x)). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torch\|: numpy\|^holds\|^changed"
import numpy as np
import onnxruntime
import onnxscript
import torch
from torch import nn


class Angle(nn.Module):
    def forward(self, y, x):
        return torch.atan2(y, x)


class OfSum(nn.Module):
    """The angle of the sum of a signal, which is the first entry of its spectrum."""

    def forward(self, signal):
        return torch.angle(torch.fft.rfft(signal))[..., 0]


def run(module, *inputs):
    model = torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((value.name for value in session.get_inputs()), (one.numpy() for one in inputs))))[0]


y, x = torch.tensor([0.0, 0, 1e-6, -1e-6, 1, -1]), torch.tensor([-1.0, 1, -1, -1, -1, -1])
signal = torch.tensor([[-1.0, -2, 0, -1], [1, 2, 0, 1]])
print("torch", torch.__version__, "onnxscript", onnxscript.__version__, "onnxruntime", onnxruntime.__version__, flush=True)
turned = []
for name, module, inputs, wanted in (
    ("atan2", Angle(), (y, x), np.arctan2(y.numpy(), x.numpy())),
    ("angle", OfSum(), (signal,), np.angle(np.fft.rfft(signal.numpy()))[..., 0]),
):
    assert np.allclose(module(*inputs).numpy(), wanted, atol=1e-6)
    found = run(module, *inputs)
    print(f"{name}: numpy and torch {wanted.round(3).tolist()}, the file {found.round(3).tolist()}", flush=True)
    turned.append(np.isclose(found - wanted, -2 * np.pi, atol=1e-5).tolist())
    assert np.allclose(np.cos(found - wanted), 1, atol=1e-5)
holds = turned == [[True, False, False, False, False, False], [True, False]]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
