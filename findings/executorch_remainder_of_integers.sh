#!/usr/bin/env bash
# ExecuTorch 1.5.1's portable kernels give torch.remainder and % of integers the sign of the number that is divided, as C does, where PyTorch and Python give
# that of the divisor: -1 % 4 is -1 in place of 3, in int8 to int64, by a number as by a tensor, without an error. Indices that
# wrap around (relative positions, ring buffers, rolled windows) end in front of the tensor. Floats, // of integers and torch.fmod are right,
# so that x // n * n + x % n is x no more. XNNPACK takes no integers, so this kernel runs in any case. Way out: x - x // n * n. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet executorch==1.5.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^executorch\|^torch\|^holds\|^changed"
from importlib.metadata import version

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn

print("executorch", version("executorch"), "torch", torch.__version__, flush=True)
WAYS = {
    "x % 4": lambda x, n: x % 4,
    "x % -4": lambda x, n: x % -4,
    "remainder(x, n)": torch.remainder,
    "fmod(x, n)": torch.fmod,
    "x // n": lambda x, n: x // n,
    "x - x // n * n": lambda x, n: x - x // n * n,
}


class Way(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x, n):
        return WAYS[self.name](x, n) + 0 * n


holds = True
for kind in (torch.int8, torch.int64, torch.float32):
    x, n = torch.tensor([-7, -1, 0, 5, 7], dtype=kind), torch.full((5,), 4, dtype=kind)
    for name in WAYS:
        module = Way(name)
        edge = to_edge_transform_and_lower(torch.export.export(module, (x, n)), partitioner=[XnnpackPartitioner()])
        loaded = Runtime.get().load_program(bytes(edge.to_executorch().buffer))
        (found,) = loaded.load_method("forward").execute([x, n])
        wanted = module(x, n)
        print(f"{kind}, {name}: PyTorch {wanted.tolist()}, ExecuTorch {found.tolist()}", flush=True)
        is_hit = kind != torch.float32 and name in ("x % 4", "x % -4", "remainder(x, n)")
        holds &= torch.equal(found, wanted) != is_hit
        holds &= not is_hit or torch.equal(found, torch.fmod(x, n))
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
