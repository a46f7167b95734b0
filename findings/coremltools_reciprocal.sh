#!/usr/bin/env bash
# coremltools 9.0 turns 1 / x into 1 / (x + 0.0001). torch.export says 1 / x by aten.reciprocal, which the converter
# writes as the operator `inverse` without its argument epsilon; that operator's default is 1e-4, added to x. At x = 0.001
# the result is 909 where torch gives 1000, in a float32 program too, without a warning. Way out: torch.div of a tensor of
# ones by x, which becomes `real_div`. Seen with torch 2.13.0 on Linux; numbers are those by which the converter itself
# evaluates the operator on a constant. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from torch import nn


class OneOver(nn.Module):
    def forward(self, x):
        return 1 / x


x = np.float32([0.001, 0.01, 1.0])
exported = torch.export.export(OneOver().eval(), (torch.from_numpy(x),)).run_decompositions({})
program = ct.convert(
    exported, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32
)._mil_program
found = [op for op in program.functions["main"].operations if op.op_type == "inverse"]


@mb.program(input_specs=[])
def evaluated():
    return mb.inverse(x=x)


values = next(op for op in evaluated.functions["main"].operations if op.op_type == "inverse").outputs[0].val
print("coremltools", ct.__version__, "torch", torch.__version__)
print("torch", (1 / torch.from_numpy(x)).tolist(), "epsilon", [float(op.epsilon.val) for op in found])
print("inverse", values.tolist())
raise SystemExit([round(float(op.epsilon.val), 9) for op in found] != [1e-4] or not 909 <= values[0] <= 910)
PY
