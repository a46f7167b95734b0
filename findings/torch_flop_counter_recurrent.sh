#!/usr/bin/env bash
# torch 2.13.0's FlopCounterMode counts an nn.LSTM on an x86 CPU as nothing: 0 operations, in training as in evaluation, in either
# direction and without a warning, while nn.GRU, nn.RNN and an LSTM with proj_size count as they should. An LSTM runs there as one oneDNN
# operator that the counter has no formula for; without oneDNN the same layer counts 43008. So does an nn.TransformerEncoderLayer under
# eval() and no_grad, whose fast path is one operator: 0, and the right number in training. (One attention alone is
# pytorch/pytorch#195460.) A pruned and a dense model with such layers then look alike, and a budget of operations passes anything.
# Way out: torch.backends.mkldnn.flags(enabled=False), and torch.backends.mha.set_fastpath_enabled(False), while counting.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

assert torch.backends.mkldnn.is_available()
STEPS, BATCH, INPUTS, HIDDEN = 7, 2, 8, 16
x = torch.rand(STEPS, BATCH, INPUTS)


def count(module, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


found = {}
for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    real = 2 * STEPS * BATCH * gates * HIDDEN * (INPUTS + HIDDEN)  # a product is a multiplication and an addition
    layer = getattr(nn, kind)(INPUTS, HIDDEN)
    for mode in (True, False):
        found[kind, mode] = count(layer.train(mode), x)
    with torch.backends.mkldnn.flags(enabled=False):
        plain = count(layer, x)
    print(f"torch 2.13.0, nn.{kind}: {real} operations, counted {found[kind, True]} in training, {found[kind, False]} in evaluation, {plain} without oneDNN")
    assert plain == real and found[kind, True] == found[kind, False] == (0 if kind == "LSTM" else real)
    if kind == "LSTM":
        assert count(nn.LSTM(INPUTS, HIDDEN, bidirectional=True), x) == 0
projected = count(nn.LSTM(INPUTS, HIDDEN, proj_size=4), x)
assert projected == 2 * STEPS * BATCH * (4 * HIDDEN * (INPUTS + 4) + HIDDEN * 4)

layer, rows = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval(), torch.rand(2, 5, 16)
linear = 2 * 2 * 5 * (16 * 48 + 16 * 16 + 16 * 32 * 2)  # the linear layers alone
fast = count(layer, rows)
torch.backends.mha.set_fastpath_enabled(False)
slow = count(layer, rows)
print("torch 2.13.0, nn.TransformerEncoderLayer: its linear layers alone are", linear, "counted", fast, "and", slow, "without the fast path")
assert fast == 0 and slow >= linear
PY
