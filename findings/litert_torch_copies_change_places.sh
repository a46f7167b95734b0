#!/usr/bin/env bash
# litert-torch 0.10.0 (litert-converter 0.5.0) loses a change of axes behind copies: x.expand(-1, 3, -1).permute(2, 1, 0)
# of (2, 1, 4) becomes copies of x as it was before, so that entries stand in the wrong places, without a word where the
# extents fit and with a file that LiteRT cannot prepare where they do not (transpose(1, 2)). A sum with zeros or a
# product with ones, which the converter makes copies of, fares alike, whatever the number of axes; so do relative
# positions of attention as in BoTNet and HaloNet. Changing the axes first and copying then is right.
# Seen in ai-edge-litert 2.3.0 with torch 2.13.0. Exit 0 while this holds.
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


class Way(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        return self.way(torch.tanh(x)) * 2


WAYS = {"copied, then turned": lambda x: x.expand(-1, 3, -1).permute(2, 1, 0),
        "turned, then copied": lambda x: x.permute(2, 1, 0).expand(-1, 3, -1),
        "copied, then transposed": lambda x: x.expand(-1, 3, -1).transpose(1, 2),
        "plus zeros, then turned": lambda x: (x + torch.zeros(2, 3, 4)).permute(2, 1, 0)}
torch.manual_seed(0)
x, found = torch.randn(2, 1, 4), []
for name, way in WAYS.items():
    content = litert_torch.convert(Way(way).eval(), (x,)).model_content()
    try:
        run = Interpreter(model_content=content).get_signature_runner()
        off = np.abs(next(iter(run(args_0=x.numpy()).values())) - Way(way)(x).numpy()).max()
        found.append("wrong" if off > 0.1 else "right")
    except (RuntimeError, ValueError) as error:
        found.append("not prepared" if "BROADCAST_TO" in str(error) else str(error))
    print(f"{name}: {found[-1]}")
holds = found == ["wrong", "right", "not prepared", "wrong"]
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
