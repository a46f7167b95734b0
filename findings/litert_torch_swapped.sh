#!/usr/bin/env bash
# litert-torch 0.10.0 swaps the operands of a reversed subtraction or division of an image behind a convolution: `1 - y`
# becomes y - 1, `c - y` becomes y - c and `c / y` becomes y / c in the file, without an error; numbers alone tell. Behind a
# linear layer all three are right, so it is what the converter does to images that it moves to NHWC.
# Seen in ai-edge-litert 2.3.0 with torch 2.13.0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litert-torch==0.10.0 litert-converter==0.5.0 ai-edge-litert==2.3.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep -v "^(\|^ExportedProgram\|^MLIR\|^Decompositions"
import litert_torch
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn


class Behind(nn.Module):
    def __init__(self, layer, operation):
        super().__init__()
        self.layer, self.operation = layer, operation
        self.constant = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.operation(self.layer(x), self.constant)


def answer(module, x):
    content = litert_torch.convert(module.eval(), (x,)).model_content()
    runner = Interpreter(model_content=content).get_signature_runner()
    return torch.tensor(next(iter(runner(args_0=x.numpy()).values())))


torch.manual_seed(0)
LAYERS = {"convolution": (nn.Conv2d(4, 6, 3), torch.randn(1, 4, 7, 7)), "linear layer": (nn.Linear(8, 6), torch.randn(3, 8))}
WAYS = {"1 - y": (lambda y, c: 1 - y, lambda y, c: y - 1),
        "c - y": (lambda y, c: c - y, lambda y, c: y - c),
        "c / y": (lambda y, c: c / y, lambda y, c: y / c)}
holds = True
for place, (layer, x) in LAYERS.items():
    for name, (asked, reversed_) in WAYS.items():
        file = answer(Behind(layer, asked), x)
        with torch.no_grad():
            same, swapped = (bool(torch.allclose(file, Behind(layer, way)(x), atol=1e-4, rtol=1e-3)) for way in (asked, reversed_))
        print(f"{name} behind a {place}: {'as torch' if same else 'operands swapped' if swapped else 'neither'}")
        holds &= (same, swapped) == ((False, True) if place == "convolution" else (True, False))
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
