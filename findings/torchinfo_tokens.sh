#!/usr/bin/env bash
# torchinfo 1.8.0, the newest release, counts a Linear by the first extent of its output alone: 128 tokens of a transformer, or the places of
# an image, cost as one. Its "Total mult-adds" of an nn.TransformerEncoderLayer grows with the batch and not with the tokens, and attention itself
# (nn.MultiheadAttention) counts as nothing, also where its weights are listed. No error and no warning. torch's FlopCounterMode says 128
# times as much for the Linear. The first is on record and mended in the repository since November 2024 (TylerYep/torchinfo#77, #318), which
# no release has. Recurrent layers and convolutions count their steps and places. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchinfo==1.8.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import warnings

import torch
import torchinfo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def counted(layer, x):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torchinfo.summary(layer, input_data=[x], verbose=0).total_mult_adds
    assert not said, [str(one.message) for one in said]
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    return found, counter.get_total_flops() // 2


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        return self.heads(x, x, x, need_weights=False)[0]


makers = {
    "Linear": lambda: nn.Linear(64, 256, bias=False),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, bias=False),
    "MultiheadAttention": Attention,
}
for name, make in makers.items():
    found, right = zip(*[counted(make().eval(), torch.randn(2, tokens, 64)) for tokens in (1, 16, 128)], strict=True)
    print(f"torchinfo 1.8.0: {name} of 1, 16 and 128 tokens: {found} mult-adds, where there are {right}")
    assert len(set(found)) == 1 and right[2] >= 128 * right[0]
found, right = counted(nn.Conv1d(64, 256, 1, bias=False), torch.randn(2, 64, 128))
print(f"torchinfo 1.8.0: the same Linear as a Conv1d of 128 places: {found}, where there are {right}")
assert found == right == 2 * 128 * 64 * 256
PY
