#!/usr/bin/env bash
# coremltools 9.0 reads only the positional arguments of a torch.export graph, and torch.export writes what a schema
# declares keyword-only as keywords. F.gelu(x, approximate="tanh"), the GELU of GPT-2 and of many vision transformers,
# becomes `gelu` with mode EXACT without a warning; the same model through a TorchScript trace keeps TANH_APPROXIMATION.
# The two differ by up to 5e-4 for each activation. Way out: trace, or replace the call by the formula.
# Seen with torch 2.13.0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import torch
from torch import nn

module, x = nn.GELU(approximate="tanh").eval(), torch.linspace(-4, 4, 801)[None]


def mode(source, **words):
    program = ct.convert(source, convert_to="mlprogram", skip_model_load=True, **words)._mil_program
    return [op.inputs["mode"].val for op in program.functions["main"].operations if op.op_type == "gelu"]


exported = mode(torch.export.export(module, (x,)).run_decompositions({}))
traced = mode(torch.jit.trace(module, x), inputs=[ct.TensorType(shape=x.shape)])
print("coremltools", ct.__version__, "torch", torch.__version__, "exported:", exported, "traced:", traced)
print(f"largest difference of the two: {float((module(x) - nn.functional.gelu(x)).abs().max()):.1e}")
raise SystemExit(exported != ["EXACT"] or traced != ["TANH_APPROXIMATION"])
PY
