#!/usr/bin/env bash
# TVM 0.27.0.post1's relax front end for torch.export reads tensors of indices that count from the end as places in front of the tensor: x[i] with an i
# of -1 in it, x[:, i], x[i, j] give what lies there in memory (another row, zeros or noise), without an error. x[:, -1], with a plain number, is
# read likewise: each sample gets the last entry of the sample before it. A warning speaks of indices out of bounds in general, in every program that indexes. The last step of a sequence, x[arange(n), lengths - 1] and keypoints are such.
# The same places counted from the front are right (the way out: x[:, n - 1], i % n), and so is a slice, x[:, -1:]. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apache-tvm==0.27.0.post1 torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PY'
from importlib.metadata import version

import numpy as np
import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

print("apache-tvm", version("apache-tvm"), "torch", torch.__version__, flush=True)
draw = torch.Generator().manual_seed(0)


class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *given):
        return self.function(*given)


def both(function, *given):
    """What PyTorch computes and what TVM makes of the exported program."""
    model = Called(function).eval()
    compiled = tvm.compile(from_exported_program(torch.export.export(model, given)), target="llvm")
    found = relax.VirtualMachine(compiled, tvm.cpu())["main"](*[tvm.runtime.tensor(each.numpy()) for each in given])
    return model(*given).numpy(), (found if hasattr(found, "numpy") else found[0]).numpy()


def shown(values):
    return f"{[round(float(each), 3) for each in values.ravel()[:4]]} of {values.shape}"


def right(name, function, *given):
    wanted, found = both(function, *given)
    same = wanted.shape == found.shape and bool(np.allclose(wanted, found, rtol=1e-4, atol=1e-5))
    print(f"{name}: {'right' if same else 'wrong'}; PyTorch {shown(wanted)}, TVM {shown(found)}", flush=True)
    return same


x, places = 1 + torch.arange(15.0).reshape(5, 3), torch.tensor([1, -1, 2])
wrong = [
    right("x[:, -1]", lambda x: x[:, -1], x),
    right("x[i], i = 1 -1 2", lambda x, i: x[i], x, places),
    right("x[:, i]", lambda x, i: x[:, i], x, places),
    right("x[i, j]", lambda x, i: x[i, i], x, places),
]
kept = [
    right("x[:, 2]", lambda x: x[:, 2], x),
    right("x[:, -1:]", lambda x: x[:, -1:], x),
    right("x[i % 5]", lambda x, i: x[i], x, places % 5),
    right("x[:, i % 3]", lambda x, i: x[:, i], x, places % 3),
    right("x[i % 5, i % 3]", lambda x, i, j: x[i, j], x, places % 5, places % 3),
]
holds = not any(wrong) and all(kept)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
