#!/usr/bin/env bash
# torch-pruning 1.6.1's count_ops_and_params counts an nn.LSTM, nn.GRU or nn.RNN once for each step and each input feature, where it means
# each step and each sample: its hook takes the sizes of the first sample for those of the batch. A GRU of 16 inputs counts as 16 times
# itself, one of 256 inputs as 256 times, beside a Linear of the same products that counts right, and all counts are for one sample. A
# table of operations before and after pruning is then one of the recurrent layers alone, and pruning inputs counts twice. Steps in front
# (batch_first=False) and biases change nothing. No warning. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch-pruning==1.6.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import warnings

import torch
import torch_pruning
from torch import nn

STEPS, HIDDEN = 7, 20


def counted(layer, *shape):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        operations, _ = torch_pruning.utils.count_ops_and_params(layer, torch.randn(*shape))
    assert not said, [str(one.message) for one in said]
    return float(operations)


for kind, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)):
    for features in (4, 16, 64):
        for batch in (1, 2):
            products = STEPS * gates * HIDDEN * (features + HIDDEN)  # of one sample, as for every other layer
            found = counted(kind(features, HIDDEN, bias=False, batch_first=True), batch, STEPS, features)
            plain = counted(nn.Linear(features + HIDDEN, gates * HIDDEN, bias=False), batch, STEPS, features + HIDDEN)
            print(f"torch-pruning 1.6.1: {kind.__name__} of {features} inputs, batch {batch}: {found:.0f} operations, "
                  f"{found * batch / products:.1f} times {products} / {batch}; a Linear of the same products {plain:.0f}")
            assert plain == products
            assert found * batch > 0.9 * features * products
PY
