#!/usr/bin/env bash
# coremltools 9.0 makes NaN of a causal mask. triu and tril become `band_part`, and where the input is a constant the
# converter evaluates that as matrix * band: -inf * 0 is NaN. torch.triu(torch.full((n, n), -inf), 1), the mask of
# nn.Transformer.generate_square_subsequent_mask, comes out of torch.export as a constant that is NaN in every entry,
# without a warning; a TorchScript trace of the same module is right. Way out: fold the mask into a buffer before
# conversion, or use torch.where on a boolean one. Seen with torch 2.13.0 on Linux. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import numpy as np
import torch
from torch import nn


class Masked(nn.Module):
    def forward(self, scores):
        return scores + torch.triu(torch.full((3, 3), float("-inf")), 1)


def constant(source, **words):
    program = ct.convert(source, convert_to="mlprogram", skip_model_load=True, **words)._mil_program
    found = [op.outputs[0].val for op in program.functions["main"].operations if op.op_type == "const"]
    return next(np.asarray(value, np.float32) for value in found if np.shape(value) == (3, 3))


module, x = Masked().eval(), torch.zeros(3, 3)
exported = constant(torch.export.export(module, (x,)).run_decompositions({}))
traced = constant(torch.jit.trace(module, x), inputs=[ct.TensorType(shape=(3, 3))])
print("coremltools", ct.__version__, "torch", torch.__version__)
print("torch       ", module(x).tolist(), "torch.export", exported.tolist(), "TorchScript ", traced.tolist(), sep="\n")
raise SystemExit(not np.isnan(exported).all() or not np.array_equal(traced, module(x).numpy()))
PY
