#!/usr/bin/env bash
# OpenVINO 2026.4.1 forgets Bessel's correction of x.var() and x.std() over the whole tensor when the model comes from
# torch.export: it divides by n where PyTorch divides by n - 1, so four numbers have a variance of 3.5 instead of 4.67. The call
# leaves `correction` out, which PyTorch's schema says means 1; OpenVINO takes it for 0. torch.var_mean(x) is hit too, while
# x.var(0), unbiased=True, a correction that is written down, and a TorchScript trace of the same module are right.
# The same model therefore gives two answers by its way in, without a warning. Way out: write correction=1. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 torch==2.13.0 numpy==2.4.6 packaging
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

    def forward(self, x):
        return self.function(x)


def run(model, x):
    return float(core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x.numpy())[0])


x = torch.tensor([1.0, 2, 3, 6])
variance, deviation = np.var(x.numpy(), ddof=1), np.std(x.numpy(), ddof=1)
ways = {
    "x.var()": (lambda x: x.var(), variance),
    "x.std()": (lambda x: x.std(), deviation),
    "torch.var_mean(x)": (lambda x: torch.var_mean(x)[0], variance),
    "x.var(0)": (lambda x: x.var(0), variance),
    "x.var(unbiased=True)": (lambda x: x.var(unbiased=True), variance),
    "x.var(correction=1)": (lambda x: x.var(correction=1), variance),
}
print("openvino", openvino.__version__, "torch", torch.__version__, flush=True)
wrong = {}
for name, (function, wanted) in ways.items():
    module = Of(function).eval()
    assert abs(float(module(x)) - wanted) < 1e-6
    exported = run(openvino.convert_model(torch.export.export(module, (x,))), x)
    traced = run(openvino.convert_model(module, example_input=x), x)
    print(f"{name}: numpy and torch {wanted:.4f}, from torch.export {exported:.4f}, from a trace {traced:.4f}", flush=True)
    wrong[name] = (abs(exported - wanted) > 0.1, abs(traced - wanted) > 0.1)
holds = list(wrong.values()) == [(True, False)] * 3 + [(False, False)] * 3
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
