#!/usr/bin/env bash
# litert-torch 0.10.0 sums over the wrong entries where an einsum sums over two letters that its terms have in another order:
# "btnj,jnk->btk" is off by more than its largest value, "btnj,njk->btk" is right. No warning; the file runs.
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


class Summed(nn.Module):
    def __init__(self, equation, shape):
        super().__init__()
        self.equation, self.weight = equation, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return torch.einsum(self.equation, x, self.weight)


torch.manual_seed(0)
x, off = torch.randn(3, 4, 2, 8), {}
for equation, shape in (("btnj,jnk->btk", (8, 2, 5)), ("btnj,njk->btk", (2, 8, 5))):
    net = Summed(equation, shape).eval()
    content = litert_torch.convert(net, (x,)).model_content()
    found = next(iter(Interpreter(model_content=content).get_signature_runner()(args_0=x.numpy()).values()))
    expected = net(x).detach().numpy()
    off[equation] = float(abs(found - expected).max() / abs(expected).max())
    print(f"{equation}: off by {off[equation]:.2g} of the largest value")
one, other = off.values()
holds = one > 0.1 and other < 1e-5
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
