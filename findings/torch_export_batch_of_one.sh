#!/usr/bin/env bash
# torch.export 2.13.0 takes a free batch, Dim("batch", min=1), through `if x.size(0) == 1:` by the way of larger batches, writes the range
# down as [1, inf] and guards nothing: the program takes one sample and answers as for many, 3x where the model gives 2x. torch.onnx carries
# that into a file with a free first extent. No warning, and with strict=True the same. A branch at 2 (`== 2`) is refused by name
# (constraints violated), so it is 0 and 1 alone that are passed over. Way out: compare one sample with the model, or Dim(..., min=2).
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import warnings

import onnxruntime
import torch
from torch.export import Dim

warnings.filterwarnings("ignore")


class Branch(torch.nn.Module):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, x):
        return x * 2 if x.size(0) == self.at else x * 3


def exported(at, strict=False):
    return torch.export.export(Branch(at), (torch.ones(4, 3),), dynamic_shapes=({0: Dim("batch", min=1)},), strict=strict)


one, many = torch.ones(1, 3), torch.ones(5, 3)
for strict in (False, True):
    program = exported(1, strict)
    (bounds,) = program.range_constraints.values()
    found = [program.module()(x).unique().item() for x in (one, many)]
    print("torch", torch.__version__.partition("+")[0], f"strict={strict}: range", bounds, "factors at batches 1 and 5:", found, "model:",
          [Branch(1)(x).unique().item() for x in (one, many)])
    assert int(bounds.lower) == 1 and found == [3, 3]
try:
    exported(2)
except Exception as error:
    print("a branch at 2:", type(error).__name__)
else:
    raise AssertionError("a branch at 2 was taken")
torch.onnx.export(exported(1), dynamo=True, verbose=False).save("net.onnx")
session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
found = session.run(None, {session.get_inputs()[0].name: one.numpy()})[0]
print("onnx: input", session.get_inputs()[0].shape, "gives", float(found.flat[0]), "at batch 1")
assert isinstance(session.get_inputs()[0].shape[0], str) and (found == 3).all()
PY
cd "$folder"
venv/bin/python run.py
