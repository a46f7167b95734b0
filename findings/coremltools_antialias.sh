#!/usr/bin/env bash
# coremltools 9.0 converts F.interpolate(..., mode="bilinear", antialias=True) as if antialias were False: the operator
# aten::_upsample_bilinear2d_aa is an alias of the plain one. Shrinking an image inside of the model, as ports of
# preprocessing pipelines do (torchvision's Resize has antialias=True by default), then reads 4 pixels where PyTorch takes
# the mean of 64 at 1/4: here black and white where PyTorch sees grey. No warning. Way out: shrink by avg_pool2d where the
# factor is whole, or outside of the model. Seen with torch 2.13.0; both programs hold the same operator with
# the same arguments. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import torch
from torch import nn


class Shrink(nn.Module):
    def __init__(self, antialias):
        super().__init__()
        self.antialias = antialias

    def forward(self, x):
        return nn.functional.interpolate(x, size=(4, 4), mode="bilinear", antialias=self.antialias)


image = torch.tensor([0.0, 1.0, 1.0, 0.0] * 4).expand(1, 1, 16, 16).contiguous()  # stripes; the middle of each four is white
said, results = {}, {}
for antialias in (True, False):
    module = Shrink(antialias).eval()
    exported = torch.export.export(module, (image,)).run_decompositions({})
    program = ct.convert(exported, convert_to="mlprogram", skip_model_load=True)._mil_program
    operators = [op for op in program.functions["main"].operations if op.op_type.startswith(("upsample", "resize"))]
    said[antialias] = [(op.op_type, {k: str(v.val) for k, v in op.inputs.items() if k != "x"}) for op in operators]
    results[antialias] = module(image)
    print(f"antialias={antialias}: {said[antialias]}")
difference = float((results[True] - results[False]).abs().max())
print("coremltools", ct.__version__, "torch", torch.__version__, f"PyTorch's own results differ by {difference:.2f}")
raise SystemExit(said[True] != said[False] or difference < 0.2)
PY
