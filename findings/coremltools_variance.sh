#!/usr/bin/env bash
# coremltools 9.0 makes the biased variance of `torch.var(x)`, and the biased deviation of `torch.std(x)`: torch.export and
# torch.jit.trace write aten.var.correction without a correction, which in PyTorch means 1, and the converter reads it as none
# at all. Of four entries the variance is 25 % too small (of n, by 1/n), in a float32 program too, without a warning. The
# same module with correction=1 spelled out is right. Seen with torch 2.13.0 on Linux,
# in the operators of the converted program. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, said, **how):
        super().__init__()
        self.said, self.how = said, how

    def forward(self, x):
        return getattr(torch, self.said)(x, **self.how)


def factors(source, **how):
    """The numbers that the converted program multiplies with: 4/3 is the correction for four entries."""
    made = ct.convert(source, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32, **how)
    steps = [op for op in made._mil_program.functions["main"].operations if op.op_type != "const"]
    return [op.op_type for op in steps], [round(float(op.y.val), 4) for op in steps if op.op_type == "mul"]


x, holds = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), True
for said in ("var", "std"):
    plain, spelled = Net(said), Net(said, dim=(0, 1), correction=1)
    exported = torch.export.export(plain.eval(), (x,)).run_decompositions({})
    calls = [(str(node.target), node.kwargs) for node in exported.graph.nodes if node.op == "call_function"]
    rows = {
        "exported": factors(exported),
        "correction=1": factors(torch.export.export(spelled.eval(), (x,)).run_decompositions({})),
        "traced": factors(torch.jit.trace(plain.eval(), x), inputs=[ct.TensorType(shape=x.shape)]),
    }
    print("coremltools", ct.__version__, said, "is", float(plain(x)), calls)
    for name, (steps, found) in rows.items():
        print(f"  {name}: {steps} {found}")
    holds &= all((1.3333 in found) == (name == "correction=1") for name, (_, found) in rows.items())
raise SystemExit(not holds)
PY
