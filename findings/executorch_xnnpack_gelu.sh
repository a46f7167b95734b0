#!/usr/bin/env bash
# ExecuTorch 1.5.1: the XNNPACK partition takes every F.gelu and nn.GELU and leaves `approximate` out: where a network asks for "tanh" (GPT-2,
# Gemma, SigLIP, ViTs of JAX), XNNPACK computes the exact one, 4.7e-4 off per activation; the portable kernel of the same program keeps it, and
# so "delegated or not" is two networks. approximate="none" is right in both. The formula written out (0.5·x·(1 + tanh …)) is
# right as well, and is the way out. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet executorch==1.5.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^executorch\|^asked\|^holds\|^changed"
from importlib.metadata import version

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn
from torch.nn import functional


class Written(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


print("executorch", version("executorch"), "torch", torch.__version__, flush=True)
x, holds = torch.linspace(-4, 4, 2048).reshape(1, 4, 16, 32), True
exact, tanh = functional.gelu(x), functional.gelu(x, approximate="tanh")
for name, module, wanted in (("tanh", nn.GELU("tanh"), tanh), ("none", nn.GELU(), exact), ("tanh, written out", Written(), tanh)):
    for place, partitioner in (("XNNPACK", [XnnpackPartitioner()]), ("portable", [])):
        edge = to_edge_transform_and_lower(torch.export.export(module.eval(), (x,)), partitioner=partitioner)
        program = edge.to_executorch()
        taken = [one.id for one in program.executorch_program.execution_plan[0].delegates]
        holds &= taken == (["XnnpackBackend"] if partitioner else [])
        (found,) = Runtime.get().load_program(bytes(program.buffer)).load_method("forward").execute([x])
        off, from_exact = float((found - wanted).abs().max()), float((found - exact).abs().max())
        print(f"asked for {name}, {place}: {off:.1e} from it, {from_exact:.1e} from the exact one", flush=True)
        wrong = (name, place) == ("tanh", "XNNPACK")
        holds &= (off > 4e-4) == wrong and (from_exact < 2e-6 if wrong else off < 2e-6)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
