#!/usr/bin/env bash
# torch-pruning 1.6.1 takes F.glu and nn.GLU for operators that keep channels where they are. A gated linear unit multiplies the first half of
# the channels by the sigmoid of the second, so channels go in pairs, i and i + n/2. Where channels 1 and 4 of eight are taken away, their pairs
# 0 and 1 must go; torch-pruning leaves six channels, whose halves meet anew: values 0 are gated by channel 5. Shapes fit,
# check_pruning_group is content, nothing warns, and the outputs are those of no network with fewer channels. Conformers, Demucs and gated convolutions are
# written so. The same gate as two chunks and a product loses its pairs, which is the way out. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch-pruning==1.6.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import torch
import torch_pruning
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.conv, self.head, self.gate = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3), gate

    def forward(self, x):
        made = self.conv(x)
        if self.gate == "two chunks":
            values, gates = made.chunk(2, 1)
            return self.head(values * gates.sigmoid())
        return self.head(F.glu(made, 1))


def zeroed(net, x, channels):
    """What the network gives where those channels of the convolution are zero."""
    with torch.no_grad():
        stored = net.conv.weight.clone()
        net.conv.weight[channels] = 0
        found = net(x)
        net.conv.weight.copy_(stored)
    return found


wrong = {}
for gate in ("F.glu", "two chunks"):
    torch.manual_seed(0)
    net, x = Net(gate).eval(), torch.randn(2, 3, 16, 16)
    could = [zeroed(net, x, channels) for channels in ([], [1, 4], [1, 5], [0, 4], [0, 1, 4, 5])]
    graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=x)
    group = graph.get_pruning_group(net.conv, torch_pruning.prune_conv_out_channels, idxs=[1, 4])
    assert graph.check_pruning_group(group)
    group.prune()
    after = net(x).detach()
    wrong[gate] = [float((after - before).abs().max() / before.abs().max()) for before in could]
    print(f"torch-pruning 1.6.1, {gate}: {net.conv.out_channels} channels left, off by {min(wrong[gate]):.1e} of the largest")
assert min(wrong["F.glu"]) > 0.05 and wrong["two chunks"][-1] < 1e-5
PY
