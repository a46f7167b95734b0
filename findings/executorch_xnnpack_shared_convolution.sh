#!/usr/bin/env bash
# ExecuTorch 1.5.1: its XNNPACK backend folds batch norms into a convolution that is called twice as if it had two. One layer behind which
# each call has a batch norm of its own, as detectors' heads share one over all scales (EfficientDet), gets one fold for both calls, and one
# of the results is off by what the norms differ in. No error or warning; the portable kernels run the same exported program as PyTorch
# does; with two layers of equal weights XNNPACK is right, too. Way out: a layer a call. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet executorch==1.5.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^executorch\|^layers\|^holds\|^changed"
from copy import deepcopy
from importlib.metadata import version

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn

print("executorch", version("executorch"), "torch", torch.__version__, flush=True)
torch.manual_seed(0)


class Head(nn.Module):
    """Two scales through one layer, or two that are equal, and a batch norm each."""

    def __init__(self, layers):
        super().__init__()
        first = nn.Conv2d(4, 4, 3, padding=1)
        self.convs = nn.ModuleList([first, first if layers == 1 else deepcopy(first)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.norms[1].bias.data += 3

    def forward(self, large, small):
        return self.norms[0](self.convs[0](large)), self.norms[1](self.convs[1](small))


holds, inputs = True, (torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4))
for layers in (1, 2):
    off = {}
    for name, partitioner in (("XNNPACK", [XnnpackPartitioner()]), ("portable", [])):
        module = Head(layers).eval()
        program = to_edge_transform_and_lower(torch.export.export(module, inputs), partitioner=partitioner).to_executorch()
        taken = [one.id for one in program.executorch_program.execution_plan[0].delegates]
        holds &= set(taken) == ({"XnnpackBackend"} if partitioner else set())
        found = Runtime.get().load_program(bytes(program.buffer)).load_method("forward").execute(list(inputs))
        off[name] = [round(float((one - wanted).abs().max()), 4) for one, wanted in zip(found, module(*inputs))]
    print("layers", layers, "off by", off, flush=True)
    holds &= max(off["portable"]) < 1e-4 and (max(off["XNNPACK"]) > 1) == (layers == 1)
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
