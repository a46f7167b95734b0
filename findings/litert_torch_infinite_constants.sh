#!/usr/bin/env bash
# litert-torch 0.10.0 writes the largest finite float32 in the place of ±infinity wherever a constant tensor holds one (a
# buffer, torch.full(…, -inf)), without a warning, and writes it into the model's own buffer as well: a model that asks
# isinf afterwards, as graph networks do of nodes that nothing came to, gets -3.4e38 where torch gives 0, and the PyTorch
# model itself answers otherwise after the conversion. An infinity that masked_fill is given as a number stays one. Way
# out: keep a copy of the buffers, and fill by masked_fill(…, -inf). Seen in ai-edge-litert 2.3.0 with torch 2.13.0.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litert-torch==0.10.0 litert-converter==0.5.0 ai-edge-litert==2.3.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep -v "^(\|^ExportedProgram\|^MLIR\|^Decompositions"
import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0, -torch.inf]))

    def forward(self, x):
        shown = x + self.mask
        return torch.where(torch.isinf(shown), torch.zeros_like(shown), shown)


class Filled(nn.Module):
    def forward(self, x):
        shown = x.masked_fill(x > 2, -torch.inf)
        return torch.where(torch.isinf(shown), torch.zeros_like(shown), shown)


x, holds = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), True
for kind in (Hidden, Filled):
    module = kind().eval()
    said = module(x).numpy()
    content = litert_torch.convert(module, (x,)).model_content()
    run = Interpreter(model_content=content).get_signature_runner()
    file, after = next(iter(run(args_0=x.numpy()).values())), module(x).numpy()
    print(f"{kind.__name__}: torch {said.tolist()}, the file {file.tolist()}, torch after it {after.tolist()}")
    wrong = kind is Hidden
    holds &= bool(np.array_equal(file, said)) != wrong and bool(np.array_equal(after, said)) != wrong
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
