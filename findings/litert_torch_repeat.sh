#!/usr/bin/env bash
# litert-torch 0.10.0 repeats along the wrong axis behind a convolution: its pass that turns images to NHWC leaves the
# counts of aten.repeat in NCHW order. conv(x).repeat(1, 2, 1, 1), which doubles channels (1, 3, 4, 4) -> (1, 6, 4, 4),
# becomes (1, 3, 8, 4) in the file; repeats over the batch, the rows or the columns (tile, too) move likewise, and where
# the extents fit, nothing but the numbers tells. Without a convolution in front, or as torch.cat, it is right.
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


class Doubled(nn.Module):
    def __init__(self, layer, double):
        super().__init__()
        self.layer, self.double = layer, double

    def forward(self, x):
        return self.double(self.layer(x))


WAYS = {"conv, repeat": (nn.Conv2d(3, 3, 1), lambda x: x.repeat(1, 2, 1, 1)),
        "no layer, repeat": (nn.Identity(), lambda x: x.repeat(1, 2, 1, 1)),
        "conv, cat": (nn.Conv2d(3, 3, 1), lambda x: torch.cat([x, x], 1))}
x, shapes = torch.randn(1, 3, 4, 4), {}
for name, (layer, double) in WAYS.items():
    content = litert_torch.convert(Doubled(layer, double).eval(), (x,)).model_content()
    run = Interpreter(model_content=content).get_signature_runner()
    shapes[name] = next(iter(run(args_0=x.numpy()).values())).shape
    print(f"{name}: the file {shapes[name]}, torch (1, 6, 4, 4)")
holds = shapes == {"conv, repeat": (1, 3, 8, 4), "no layer, repeat": (1, 6, 4, 4), "conv, cat": (1, 6, 4, 4)}
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
