#!/usr/bin/env bash
# litert-torch 0.10.0 leaves out the scale_factor of F.interpolate(mode="bilinear") and nn.Upsample: the file takes the ratio
# of the sizes, PyTorch the factor that was given (recompute_scale_factor is off by default). They differ wherever size · factor
# is no whole number, as at 0.5 of an odd image or 1.5 of 9: pixels drift apart, most at the far end. No warning; even sizes hide it.
# Way out: recompute_scale_factor=True in training as well, or size=. Seen in ai-edge-litert 2.3.0 with torch 2.13.0.
# coremltools 9.0 refuses such a call by name, torch.onnx writes the factor. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litert-torch==0.10.0 litert-converter==0.5.0 ai-edge-litert==2.3.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^factor\|^holds\|^changed"
import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

holds = True
for factor, extent in ((0.5, 9), (1.5, 9), (1.5, 8)):
    x = torch.arange(float(extent)).expand(1, 1, extent, extent).contiguous()
    modules = {again: nn.Upsample(scale_factor=factor, mode="bilinear", recompute_scale_factor=again).eval() for again in (None, True)}
    for again, module in modules.items():
        content = litert_torch.convert(module, (x,)).model_content()
        found = next(iter(Interpreter(model_content=content).get_signature_runner()(args_0=x.numpy()).values()))
        taken = [name for name, other in modules.items() if np.allclose(found, other(x).numpy(), atol=1e-4)]
        off = float(abs(found - module(x).numpy()).max())
        print(f"factor {factor} of {extent}, recompute_scale_factor={again}: off by {off:.2f} pixels,",
              f"torch {module(x)[0, 0, 0, -3:].numpy().round(2)}, file {found[0, 0, 0, -3:].round(2)}", flush=True)
        holds &= taken == ([None, True] if extent == 8 else [True])
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
