#!/usr/bin/env bash
# TVM 0.27.0.post1's relax front end for torch.export leaves numbers out that operators are given beside their tensors, without an error:
# - alpha of torch.add, torch.sub and torch.rsub (y = a + 2 * b written as torch.add(a, b, alpha=2) is a + b),
# - divisor_override of F.avg_pool2d (sums over windows come out as means),
# - the scale of nn.SELU, which reaches it as an ELU with one: 5 % too small everywhere,
# - a float that meets a tensor of integers: x * 2.5 is x * 2 and x / 4 is a division of integers, in int64 where PyTorch says float32,
# and torch.clamp with a lower bound above the upper one gives the lower one (PyTorch: the upper).
# Operators of their own (a + b * 2), nn.ELU, floats by floats, torch.addmm with alpha and beta are right. Exit 0 while this holds.
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


a, b = (torch.randn(6, generator=draw) for _ in range(2))
image, whole = torch.randn(1, 2, 6, 6, generator=draw), torch.arange(-4, 5)
wrong = [
    right("torch.add, alpha=2", lambda x, y: torch.add(x, y, alpha=2), a, b),
    right("torch.sub, alpha=2", lambda x, y: torch.sub(x, y, alpha=2), a, b),
    right("torch.rsub, alpha=2", lambda x: torch.rsub(x, 3, alpha=2), a),
    right("divisor_override=1", lambda x: functional.avg_pool2d(x, 3, divisor_override=1), image),
    right("selu", functional.selu, a),
    right("integers * 2.5", lambda x: x * 2.5, whole),
    right("integers / 4", lambda x: x / 4, whole),
    right("clamp(2, 1)", lambda x: x.clamp(2, 1), a),
]
kept = [
    right("a + b * 2", lambda x, y: x + y * 2, a, b),
    right("avg_pool2d", lambda x: functional.avg_pool2d(x, 3), image),
    right("elu", functional.elu, a),
    right("floats / 4", lambda x: x.float() / 4, whole),
    right("clamp(-1, 1)", lambda x: x.clamp(-1, 1), a),
    right("addmm", lambda x: torch.addmm(x, x, x, beta=2, alpha=0.5), image[0, 0]),
]
holds = not any(wrong) and all(kept)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
