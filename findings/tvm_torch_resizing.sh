#!/usr/bin/env bash
# TVM 0.27.0.post1's relax front end for torch.export takes images apart at other places than PyTorch, without an error:
# - F.interpolate(mode="nearest") to a smaller size, or by 1.5, is taken from half pixels and rounded, where PyTorch rounds places down,
# - a scale_factor of a bilinear one is replaced by the ratio of sizes, which differs where size · factor is no whole number,
# - antialias=True is left out,
# - F.grid_sample gives a result of another shape: the grid, whose two numbers lie behind, is read as if they lay in front.
# Nearest by a whole factor, bilinear by size and from corner to corner are right. Way out: size= for bilinear, index_select for nearest, grid_sample by
# way of gather. Exit 0 while this holds.
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


image, grid = torch.randn(1, 4, 7, 9, generator=draw), torch.rand(1, 5, 6, 2, generator=draw) - 0.5
wrong = [
    right("nearest, 7x9 to 3x4", lambda x: functional.interpolate(x, size=(3, 4)), image),
    right("nearest, by 1.5", lambda x: functional.interpolate(x, scale_factor=1.5), image),
    right("bilinear, by 0.5", lambda x: functional.interpolate(x, scale_factor=0.5, mode="bilinear"), image),
    right("bilinear, by 1.5", lambda x: functional.interpolate(x, scale_factor=1.5, mode="bilinear"), image),
    right("antialias", lambda x: functional.interpolate(x, size=(3, 4), mode="bilinear", antialias=True), image),
    right("grid_sample", lambda x, g: functional.grid_sample(x, g, align_corners=False), image, grid),
]
kept = [
    right("nearest, by 2", lambda x: functional.interpolate(x, scale_factor=2.0), image),
    right("bilinear, by 2", lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"), image),
    right("bilinear, 7x9 to 3x4", lambda x: functional.interpolate(x, size=(3, 4), mode="bilinear"), image),
    right("bilinear, corner to corner", lambda x: functional.interpolate(x, size=(11, 4), mode="bilinear", align_corners=True), image),
]
holds = not any(wrong) and all(kept)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
