#!/usr/bin/env bash
# torch-pruning 1.6.1 takes away the wrong inputs of a layer that reads torch.cat of something without weights and a layer's result. What
# comes from no layer (the image itself, coordinates, a positional grid) is left out of its count of places, so channel i of a
# convolution behind three such planes is cut from the reader at place i in place of i + 3. Shapes fit, check_pruning_group is content,
# nothing warns, and the outputs are others, even where the channels taken away were all zero. CoordConv and skips from the input
# written as cat([x, …]) are such networks. The same planes behind the result, or a layer (a 1x1 identity) in place of x, are right, which
# is the way out. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch-pruning==1.6.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch
import torch_pruning
from torch import nn

ZEROS = [1, 4]  # channels of the convolution that are zero, so that nothing is lost without them


class Net(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.conv, self.identity, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(11, 4, 3)
        self.order = order
        with torch.no_grad():
            self.conv.weight[ZEROS], self.conv.bias[ZEROS] = 0, 0
            self.identity.weight.copy_(torch.eye(3)[..., None, None])

    def forward(self, x):
        planes = self.identity(x) if self.order == "a layer in front" else x
        made = self.conv(x)
        return self.head(torch.cat([made, planes] if self.order == "input behind" else [planes, made], 1))


wrong = {}
for order in ("input in front", "input behind", "a layer in front"):
    torch.manual_seed(0)
    net, x = Net(order).eval(), torch.randn(2, 3, 16, 16)
    before = net(x).detach()
    reader = net.head.weight.detach().clone()
    graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=x)
    group = graph.get_pruning_group(net.conv, torch_pruning.prune_conv_out_channels, idxs=ZEROS)
    assert graph.check_pruning_group(group)
    group.prune()
    assert net.conv.out_channels == 6 and net.head.in_channels == 9
    after = net(x).detach()
    kept = [place for place in range(11) if any(torch.equal(reader[:, place], one) for one in net.head.weight.detach().unbind(1))]
    wrong[order] = float((after - before).abs().max() / before.abs().max())
    print(f"torch-pruning 1.6.1, {order}: cut from the reader {sorted(set(range(11)) - set(kept))}, off by {wrong[order]:.1e} of the largest")
    assert (sorted(set(range(11)) - set(kept)) == ZEROS) == (order != "a layer in front")
assert wrong["input in front"] > 0.1 and wrong["input behind"] < 1e-5 and wrong["a layer in front"] < 1e-5
PY
