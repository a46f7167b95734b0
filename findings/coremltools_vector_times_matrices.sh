#!/usr/bin/env bash
# coremltools declares a shape that torch does not give for a vector times a stack of matrices.
#
# coremltools 9.0 takes the shape of `v @ x` with v of 4 entries and x of 2×4×6 for 1×6, where torch, and numpy, give 2×6: the
# axis of the stack is lost. The conversion says nothing. `x @ v` with x of four axes stops at "list index out of range" instead.
# Seen: torch gives (2, 6), coremltools declares (1, 6)
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 coremltools==9.0 numpy
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import coremltools as ct
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.v @ x


net, x = Net().eval(), torch.randn(2, 4, 6)
program = torch.export.export(net, (x,)).run_decompositions({})
model = ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32)
block = next(iter(model.get_spec().mlProgram.functions["main"].block_specializations.values()))
types = {output.name: output.type.tensorType for operation in block.operations for output in operation.outputs}
declared = tuple(size.constant.size for size in types[block.outputs[0]].dimensions)
wanted = tuple(net(x).shape)
print("torch", torch.__version__, "coremltools", ct.__version__)
print("torch gives", wanted, "coremltools declares", declared)
if declared == wanted:
    raise SystemExit("changed: the shape is torch's")
assert declared == (1, 6)
PY
