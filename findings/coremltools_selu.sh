#!/usr/bin/env bash
# coremltools 9.0 makes an ELU of a SELU once the program went through torch's default decompositions: run_decompositions()
# spells selu as aten.elu(x, 1.6733, 1.0507), whose second number is the factor in front of all, and the converter reads the
# first alone. The result is 4.8 % too small everywhere, in a float32 program too, without a warning. run_decompositions({}),
# which leaves aten.selu, is right. Seen with torch 2.13.0 on Linux, in the operators of the converted program. Exit 0 while
# this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import torch
from torch import nn

exported = torch.export.export(nn.SELU().eval(), (torch.randn(2, 3),))
holds = True
for name, program in (("default", exported.run_decompositions()), ("none", exported.run_decompositions({}))):
    said = [(str(node.target), node.args[1:]) for node in program.graph.nodes if node.op == "call_function"]
    made = ct.convert(program, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32)
    steps = [op for op in made._mil_program.functions["main"].operations if op.op_type != "const"]
    factors = [float(op.y.val) for op in steps if op.op_type == "mul"]
    print("coremltools", ct.__version__, "decompositions:", name, said, "->", [op.op_type for op in steps], factors)
    scaled = any(abs(factor - 1.0507) < 1e-3 for factor in factors)
    holds &= scaled == (name == "none") and sum(op.op_type == "elu" for op in steps) == 1
raise SystemExit(not holds)
PY
