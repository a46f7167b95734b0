#!/usr/bin/env bash
# torch 2.13.0: Optimizer.load_state_dict takes the tensors of the dictionary themselves, where Module.load_state_dict copies them. Training goes
# on inside of what was loaded: moments and counted steps in the dictionary become those of the steps behind it. Whoever returns twice to one moment (rewinding after
# each round of pruning, the best state so far, a search for a learning rate) gets the weights of that moment and the moments of the last
# step, without a message; torch.save of the dictionary after that writes the mixture down. copy.deepcopy when it was kept
# does not help, since the copy is what is shared from the first return on. Adam and SGD with momentum alike. The documentation says that
# state_dict() holds references, but not this. Way out: optimizer.load_state_dict(copy.deepcopy(kept)). 2.14.1 reads the same. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import copy

import torch
from torch import nn

OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
}
x, y = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(64, 4)


def train(net, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    return net.weight.detach().clone()


def returned_twice(make, load):
    """How far the second run from a kept moment ends from the first one."""
    torch.manual_seed(0)
    net = nn.Linear(8, 4)
    optimizer = make(net.parameters())
    train(net, optimizer, 5)
    kept = copy.deepcopy([net.state_dict(), optimizer.state_dict()])
    ends = []
    for _ in range(2):
        net.load_state_dict(kept[0])
        load(optimizer, kept[1])
        ends.append(train(net, optimizer, 20))
    return float((ends[0] - ends[1]).abs().max())


for name, make in OPTIMIZERS.items():
    plain = returned_twice(make, lambda optimizer, state: optimizer.load_state_dict(state))
    copied = returned_twice(make, lambda optimizer, state: optimizer.load_state_dict(copy.deepcopy(state)))
    print(f"torch {torch.__version__}, {name}: the second run ends {plain:.2g} from the first; {copied:.2g} with a copy at each return")
    assert plain > 0.005 and copied == 0
PY
