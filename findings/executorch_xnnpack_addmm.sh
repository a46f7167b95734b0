#!/usr/bin/env bash
# ExecuTorch 1.5.1: its XNNPACK partition takes torch.addmm with a stored weight for a linear layer, whatever is added. beta and alpha are
# left out (beta=2, alpha=0.5 gives x @ w + b), and b is read as one number a column even where it is one an entry, (3, 5): the first
# row of it is added to every row. No error or warning; the portable kernels run the same exported program as PyTorch does.
# addmm(b, x, w) with b of (5,), which is nn.Linear, is right, which hides it; torch.add and torch.sub with alpha are right since
# pytorch/executorch#11777. Way out: x @ w, then what is added as an operation of its own. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet executorch==1.5.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^executorch\|^beta\|^holds\|^changed"
from importlib.metadata import version

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn

print("executorch", version("executorch"), "torch", torch.__version__, flush=True)
torch.manual_seed(0)


class Product(nn.Module):
    def __init__(self, shape, apart=False, **factors):
        super().__init__()
        self.weight, self.added = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(shape))
        self.factors, self.apart = factors, apart

    def forward(self, x):
        if self.apart:
            return self.factors.get("beta", 1) * self.added + self.factors.get("alpha", 1) * (x @ self.weight)
        return torch.addmm(self.added, x, self.weight, **self.factors)


holds, x = True, torch.randn(3, 4)
for shape, factors in (((5,), {}), ((5,), {"beta": 2}), ((5,), {"alpha": 0.5}), ((3, 5), {})):
    off = {}
    for name, apart, partitioner in (("XNNPACK", False, [XnnpackPartitioner()]), ("portable", False, []),
                                     ("XNNPACK, apart", True, [XnnpackPartitioner()])):
        module = Product(shape, apart, **factors).eval()
        edge = to_edge_transform_and_lower(torch.export.export(module, (x,)), partitioner=partitioner)
        program = edge.to_executorch()
        taken = [one.id for one in program.executorch_program.execution_plan[0].delegates]
        holds &= set(taken) == ({"XnnpackBackend"} if partitioner else set())
        (found,) = Runtime.get().load_program(bytes(program.buffer)).load_method("forward").execute([x])
        off[name] = round(float((found - module(x)).abs().max()), 4)
    print("beta", factors.get("beta", 1), "alpha", factors.get("alpha", 1), "added", shape, "off by", off, flush=True)
    is_linear = shape == (5,) and not factors
    holds &= off["portable"] < 1e-4 and off["XNNPACK, apart"] < 1e-4 and (off["XNNPACK"] < 1e-4 if is_linear else off["XNNPACK"] > 0.3)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
