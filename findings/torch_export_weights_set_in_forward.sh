#!/usr/bin/env bash
# torch.export 2.13.0 (strict=False, the default) traces a layer with its old weight where forward gives it another through .data, as binary and
# ternary networks do before every call (`self.layer.weight.data = self.real.detach().sign()`). The assignment is neither recorded nor refused: the
# exported program and the ONNX file of torch.onnx.export compute with whatever the layer held when it was exported, here 9 everywhere, and answer
# 18 in place of 0. The module itself is right before and after, and so are strict=True and torch.jit.trace. Way out: say what is computed,
# `functional.linear(x, self.real.sign())` or torch.func.functional_call; or strict=True. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PY'
import numpy as np
import onnxruntime
import torch


class Signs(torch.nn.Module):
    """A layer of the signs of the weight that is trained."""

    def __init__(self, assigns):
        super().__init__()
        self.real = torch.nn.Parameter(torch.tensor([[0.3, -0.2], [-0.5, 0.1]]))
        self.layer = torch.nn.Linear(2, 2, bias=False)
        self.layer.weight.data.fill_(9.0)
        self.assigns = assigns

    def forward(self, x):
        if not self.assigns:
            return torch.nn.functional.linear(x, self.real.sign())
        self.layer.weight.data = self.real.detach().sign()
        return self.layer(x)


x = torch.ones(1, 2)
right = Signs(True).eval()(x).tolist()


def of_onnx(assigns):
    torch.onnx.export(Signs(assigns).eval(), (x,), "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].tolist()


found = {
    "torch.export": torch.export.export(Signs(True).eval(), (x,)).module()(x).tolist(),
    "torch.onnx": of_onnx(True),
    "torch.export, strict": torch.export.export(Signs(True).eval(), (x,), strict=True).module()(x).tolist(),
    "torch.export, by functional.linear": torch.export.export(Signs(False).eval(), (x,)).module()(x).tolist(),
    "torch.onnx, by functional.linear": of_onnx(False),
}
for way, answer in found.items():
    print("torch 2.13.0,", way, answer, "where the module gives", right, flush=True)
wrong = [found[way] == [[18.0, 18.0]] for way in ("torch.export", "torch.onnx")]
kept = [np.allclose(answer, right) for way, answer in found.items() if way not in ("torch.export", "torch.onnx")]
holds = right == [[0.0, 0.0]] and all(wrong) and all(kept)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
