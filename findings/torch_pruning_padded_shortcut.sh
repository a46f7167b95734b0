#!/usr/bin/env bash
# torch-pruning 1.6.1 forgets where F.pad put channels. A ResNet for CIFAR (the shortcut A of the paper, in most ports F.pad(x[:, :, ::2, ::2],
# (0, 0, 0, 0, 4, 4))) adds channel i of the narrow block to channel i + 4 of the wide one; torch-pruning ties channel i to channel i.
# Six channels padded by four and four are 14, as many as it leaves of the wide layer, so that shapes fit, check_pruning_group is content and nothing
# warns; but the wrong two of the wide layer and of its readers were cut, and outputs are others even where the channels taken away were zero. Ways out: a shortcut by a
# convolution (option B), or ignored_layers for the layers that such shortcuts read. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch-pruning==1.6.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import torch
import torch_pruning
from torch import nn
from torch.nn import functional as F

ZEROS = [1, 4]  # channels of the narrow block that are zero, and what the shortcut adds them to


class Net(nn.Module):
    def __init__(self, shortcut):
        super().__init__()
        self.conv, self.wide = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False)
        self.head, self.short = nn.Conv2d(16, 4, 3), nn.Conv2d(8, 16, 1, stride=2, bias=False) if shortcut == "convolution" else None
        with torch.no_grad():
            self.conv.weight[ZEROS] = 0
            for layer in (self.wide, self.short) if self.short else (self.wide,):
                layer.weight[ZEROS if self.short else [i + 4 for i in ZEROS]] = 0

    def forward(self, x):
        made = self.conv(x)
        short = self.short(made) if self.short else F.pad(made[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(self.wide(made) + short)


wrong = {}
for shortcut in ("padding", "convolution"):
    torch.manual_seed(0)
    net, x = Net(shortcut).eval(), torch.randn(2, 3, 16, 16)
    before, rows = net(x).detach(), net.wide.weight.detach().abs().sum((1, 2, 3))
    graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=x)
    group = graph.get_pruning_group(net.conv, torch_pruning.prune_conv_out_channels, idxs=ZEROS)
    assert graph.check_pruning_group(group)
    group.prune()
    after = net(x).detach()
    wrong[shortcut] = float((after - before).abs().max() / before.abs().max())
    left = net.wide.out_channels
    print(f"torch-pruning 1.6.1, shortcut by {shortcut}: {left} of 16 channels left, off by {wrong[shortcut]:.1e} of the largest")
    assert left == (14 if shortcut == "padding" else 16)
assert wrong["padding"] > 0.1 and wrong["convolution"] < 1e-5
PY
