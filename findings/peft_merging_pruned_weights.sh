#!/usr/bin/env bash
# peft 0.21.2's merge_and_unload() loses a trained LoRA, without an error or a warning, where the layer's weight is computed: pruned by
# torch.nn.utils.prune (weight_orig times a mask) or under a parametrization. Merging adds to `weight.data`, which is the last
# product there, and the next forward computes the product anew: the "merged" model answers as the base did. safe_merge=True
# returns the same. The adapter works until then, so that evaluation in front of merging says nothing. A plain weight merges
# right. Ways out: prune.remove or remove_parametrizations in front of get_peft_model, and mask anew after
# merging, which fills the zeros. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import warnings
from collections import OrderedDict

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrize, prune

x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def masked(layer, how):
    if how == "parametrize":
        parametrize.register_parametrization(layer, "weight", Masked((layer.weight.abs() > 0.1).float()))
    elif how != "plain":
        prune.l1_unstructured(layer, "weight", 0.5)
    if how == "prune, removed":
        prune.remove(layer, "weight")


def answers(how, safe):
    """Outputs of the base, with the adapter and merged."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(first=nn.Linear(16, 16), relu=nn.ReLU(), last=nn.Linear(16, 4)))
    masked(model.first, how)
    base = model(x).detach()
    adapted = get_peft_model(model, LoraConfig(target_modules=["first"], init_lora_weights=False)).eval()
    before = adapted(x).detach()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        merged = adapted.merge_and_unload(safe_merge=safe)
    assert not said, [str(one.message) for one in said]
    return base, before, merged(x).detach()


for how in ("plain", "prune, removed", "prune", "parametrize"):
    for safe in (False, True):
        base, before, merged = answers(how, safe)
        off, moved, gone = (float((a - b).abs().max()) for a, b in ((merged, before), (before, base), (merged, base)))
        print(f"peft 0.21.2, {how}, safe_merge={safe}: the adapter changes {moved:.2f}; merged is off by {off:.1e}, from the base by {gone:.1e}")
        assert moved > 0.1
        assert (off < 1e-5) if how in ("plain", "prune, removed") else (off > 0.1 and gone < 1e-6)
PY
